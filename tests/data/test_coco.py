"""Every malformation gets an error or a counted, named report, and the rest stays usable.

How boxes and files are checked, whatever the format: test_records.py.
"""

import math
import pathlib

import numpy as np
import pytest

from effdet_jax.data.coco import CocoFolder, find_annotations
from effdet_jax.data.example import DataError
from tests.conftest import shared
from tests.doubles import make_folder


def load(root: pathlib.Path, **options):
    return CocoFolder(str(root / "train.json"), **options)


def test_a_sound_folder(tmp_path):
    make_folder(tmp_path)
    source = load(tmp_path)
    assert len(source) == 3 and source.class_names.names == ("dog", "cat")
    example = source[1]
    assert example.image.shape == (30, 40, 3) and example.image[0, 0, 0] == 1 and not example.error
    np.testing.assert_array_equal(example.truth.boxes, [[6, 4, 16, 24]])  # yxyx
    assert example.truth.labels.tolist() == [1] and example.truth.area.tolist() == [200.0]
    assert not example.truth.crowd.any() and source.report.dropped == {}
    assert source.describe(1) == "image 1 '1.png'"


def annotation(**changes):
    return {"id": 99, "image_id": 0, "category_id": 5, "bbox": [1, 1, 5, 5]} | changes


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"bbox": [1, 1, 0, 5]}, "box without width or height"),
        ({"bbox": [9, 9, -3, 5]}, "box without width or height"),
        ({"bbox": [math.nan, 1, 5, 5]}, "box that isn't four finite numbers"),
        ({"bbox": [1, 1, math.inf, 5]}, "box that isn't four finite numbers"),
        ({"bbox": []}, "box that isn't four finite numbers"),
        ({"bbox": ["1", 1, 5, 5]}, "box that isn't four finite numbers"),
        ({"bbox": None}, "box that isn't four finite numbers"),
        ({"bbox": [400, 1, 5, 5]}, "box outside its image"),
        ({"bbox": [-30, -30, 5, 5]}, "box outside its image"),
        ({"category_id": 77}, "box of a category that isn't listed"),
        ({"image_id": 1234}, "box of an image that isn't listed"),
    ],
)
def test_bad_boxes_are_left_out_counted_and_named(tmp_path, bad, reason):
    content = make_folder(tmp_path)
    make_folder(tmp_path, annotations=[*content["annotations"], annotation(**bad)])
    source = load(tmp_path)
    assert source.report.dropped == {reason: 1}
    assert "99" in source.report.lines()[1] and "train.json" in source.report.lines()[1]
    assert source.report.boxes == 3 and len(source[0].truth.boxes) == 1
    with pytest.raises(DataError, match=reason):
        load(tmp_path, strict=True)


def test_crowds_areas_and_empty_images_are_counted(tmp_path):
    make_folder(tmp_path, annotations=[annotation(iscrowd=1, area=7.5), annotation(id=98)])
    source = load(tmp_path)
    assert source[0].truth.crowd.tolist() == [True, False]
    assert source[0].truth.area.tolist() == [7.5, 25.0]
    assert (source.report.crowd, source.report.empty, source.report.boxes) == (1, 2, 2)


def test_string_ids_and_missing_sizes(tmp_path):
    make_folder(
        tmp_path,
        images=[{"id": "a/b", "file_name": "0.png"}],
        annotations=[annotation(image_id="a/b", id="x")],
    )
    source = load(tmp_path)
    assert source[0].truth.image_id == "a/b" and source[0].truth.size == (30, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "lists no images"),
        ({"annotations": []}, "has no boxes"),
        ({"annotations": None}, "not a COCO detection file: it has no list annotations"),
        ({"categories": []}, "there are no categories"),
        (
            {"categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "a"}]},
            "class name listed more than once: a",
        ),
        ({"annotations": [{"id": 1, "image_id": 0, "category_id": 5, "bbox": [0, 0, 0, 0]}]},
         "none of its 3 images has a usable box"),
    ],
)  # fmt: skip
def test_unusable_files_say_why(tmp_path, changes, message):
    make_folder(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "not a COCO detection file: it has no list images and no list annotations"),
        ('{"images": 3}', "it has no list images"),
    ],
)
def test_files_that_are_not_coco(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_missing_annotation_file(tmp_path):
    with pytest.raises(DataError, match="there is no annotation file"):
        load(tmp_path)


def test_an_image_listed_twice(tmp_path):
    content = make_folder(tmp_path)
    make_folder(tmp_path, images=content["images"] + content["images"][:1])
    with pytest.raises(DataError, match="image id 0 is listed twice"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.json", "train"),
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("test.json", "val"),
    ],
)
def test_usual_layouts_are_found(tmp_path, name, split):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert find_annotations(str(tmp_path), split) == str(path)


def test_where_annotations_were_looked_for_is_said(tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(DataError, match=r"no val annotations.*labels.json.*--config.data.val_json"):
        find_annotations(str(tmp_path), "val")
    with pytest.raises(DataError, match="data folder '.*nowhere' doesn't exist"):
        find_annotations(str(tmp_path / "nowhere"), "train")


def test_images_beside_the_json_are_found(tmp_path):
    """Roboflow's layout: the images lie next to the annotations."""
    make_folder(tmp_path)
    (tmp_path / "train").mkdir()
    for path in (tmp_path / "images").iterdir():
        path.rename(tmp_path / "train" / path.name)
    (tmp_path / "train.json").rename(tmp_path / "train" / "_annotations.coco.json")
    source = CocoFolder(find_annotations(str(tmp_path), "train"))
    assert len(source) == 3


def test_bccd_as_published():
    source = CocoFolder(find_annotations(str(shared("data/bccd")), "train"))
    assert (len(source), source.report.boxes) == (205, 2804)
    assert source.report.dropped == {"box without width or height": 1}
    assert source.class_names.names == ("RBC", "WBC", "Platelets")


def test_a_slice_of_coco():
    source = CocoFolder(find_annotations(str(shared("data/coco_slice")), "val"))
    assert (len(source), len(source.class_names), source.report.crowd) == (33, 90, 3)
    assert source.report.dropped == {}
