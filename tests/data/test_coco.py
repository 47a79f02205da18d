"""Every malformation gets an error or a counted, named report, and the rest stays usable.

How boxes and files are checked, whatever the format: test_records.py.
"""

import math
import pathlib

import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.data.coco import find_coco, open_coco, read_coco
from effdet_jax.data.example import DataError
from tests.conftest import shared
from tests.doubles import make_folder, source_options


def load(root: pathlib.Path, **options):
    """All images of a folder's train.json."""
    return open_coco("train", source_options(dir=str(root), val_fraction=0.0) | options)


def parse(root: pathlib.Path):
    return read_coco(str(root / "train.json"), "")


def boxes_of(parsed):
    return [row.box for record in parsed.records for row in record.annotations]


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
        ({"bbox": ["1px", 1, 5, 5]}, "box that isn't four finite numbers"),
        ({"bbox": {"x": 1}}, "box that isn't four finite numbers"),
        ({"category_id": [5]}, "box of a category that isn't listed"),
        ({"image_id": [0]}, "box of an image that isn't listed"),
        ({"image_id": None}, "box of an image that isn't listed"),
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
        ({"annotations": []}, "none of its 3 images has a usable box"),
        ({"annotations": None}, "none of its 3 images has a usable box"),
        ({"annotations": 3}, "not a COCO detection file: annotations isn't a list"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]},
         "category id 5 is listed as 'a' and 'b'"),
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
        ("[1, 2]", "not a COCO detection file: it has no list images and no list categories"),
        ('{"images": 3}', "it has no list images"),
    ],
)
def test_files_that_are_not_coco(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_an_image_listed_twice(tmp_path):
    content = make_folder(tmp_path)
    make_folder(tmp_path, images=content["images"] + content["images"][:1])
    source = load(tmp_path)
    assert len(source) == 3 and source.report.dropped == {"image that is listed twice": 1}
    make_folder(tmp_path, images=[*content["images"], {"id": 0, "file_name": "1.png"}])
    with pytest.raises(DataError, match="image id 0 is listed twice, as '0.png' and as '1.png'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"images": [{"id": 0, "file_name": "0.png"}, None]}, "entry of 'images' that is no object"),
        ({"images": [{"id": 0, "file_name": "0.png"}, {"file_name": "1.png"}]}, "image without id"),
        ({"images": [{"id": 0, "file_name": "0.png"}, {"id": [1], "file_name": "1.png"}]},
         "image without id"),
        ({"images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": None}]},
         "image without file_name"),
        ({"images": [{"id": 0, "file_name": "0.png", "width": "80px", "height": 30}]},
         "image whose height or width is no number (the file counts)"),
        ({"categories": [{"id": 5, "name": "cat"}, {"name": "dog"}]}, "category without an id"),
        ({"categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": None}]},
         "category without a name"),
        ({"annotations": [annotation(), None]}, "entry of 'annotations' that is no object"),
        ({"annotations": [annotation(area="big")]},
         "area that is no number of pixels (the box's is taken)"),
        ({"annotations": [annotation(iscrowd="some")]},
         "iscrowd that is neither 0 nor 1 (taken as 0)"),
    ],
)  # fmt: skip
def test_entries_of_a_wrong_shape_are_named_faults(tmp_path, changes, fault):
    kept = {"annotations": [annotation()]}
    make_folder(tmp_path, **kept | changes)
    source = load(tmp_path)
    assert source.report.dropped == {fault: 1} and "train.json: " in source.report.lines()[1]
    assert source.report.boxes == 1 and not source[0].truth.crowd.any()


def test_ids_of_another_type_are_compared_as_text(tmp_path):
    make_folder(tmp_path, annotations=[annotation(image_id="0", category_id="5")])
    parsed = parse(tmp_path)
    assert len(parsed.records[0].annotations) == 1 and parsed.report.dropped == {}
    assert parsed.report.notes == [
        "1 × category_id of another type, compared as text, first: '5' for 5",
        "1 × image_id of another type, compared as text, first: '0' for 0",
    ]


def test_equal_categories_are_one_and_flat_polygons_are_read(tmp_path):
    """As the VGG Image Annotator exports: a category per region."""
    cat = {"id": 5, "name": "cat", "supercategory": "class"}
    region = annotation(bbox=None, segmentation=[5, 6, 35, 6, 35, 26, 5, 26])
    make_folder(tmp_path, categories=[cat] * 3, annotations=[region])
    parsed = parse(tmp_path)
    assert parsed.class_names == ClassNames(("cat",), (5,))
    assert boxes_of(parsed) == [(6, 5, 26, 35)]


def test_the_group_of_other_categories_is_no_class(tmp_path):
    """As Roboflow exports; its project may be called like its only class."""
    group = {"id": 0, "name": "cat", "supercategory": "none"}
    cat = {"id": 5, "name": "cat", "supercategory": "cat"}
    make_folder(tmp_path, categories=[group, cat])
    parsed = parse(tmp_path)
    assert parsed.class_names == ClassNames(("cat",), (5,))
    assert "'cat' (id 0)" in parsed.report.notes[-1]


def test_ids_may_be_of_several_types(tmp_path):
    make_folder(tmp_path, categories=[{"id": "dog", "name": "dog"}, {"id": 5, "name": "cat"}])
    assert parse(tmp_path).class_names == ClassNames(("cat", "dog"), (5, "dog"))


@pytest.mark.parametrize(("used", "ids"), [(0, (0, 1)), (2, (1, 2)), ("dog", ("cat", "dog"))])
def test_categories_may_be_names_alone(tmp_path, used, ids):
    rows = [annotation(category_id=used)]
    make_folder(tmp_path, categories=["cat", "dog"], annotations=rows)
    assert parse(tmp_path).class_names == ClassNames(("cat", "dog"), ids)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 6, 24, 6, 24, 16], [4, 16, 10, 10, 5, 9]],
        # 30 rows: 4 columns and 6 rows of nothing, then 20 columns of 10 rows.
        {"size": [30, 40], "counts": [4 * 30 + 6, *[10, 20] * 19, 10, 30 * 16 + 14]},
    ],
)
def test_boxes_of_polygons_and_masks(tmp_path, segmentation):
    row = annotation(segmentation=segmentation)
    del row["bbox"]
    make_folder(tmp_path, annotations=[row])
    parsed = parse(tmp_path)
    assert boxes_of(parsed) == [(6, 4, 16, 24)]
    assert parsed.report.notes == ["1 boxes are those of polygons or masks: they have no bbox"]


@pytest.mark.parametrize("crowd", ["0", "false", False, 0.0, None])
def test_no_crowd_in_every_spelling(tmp_path, crowd):
    make_folder(tmp_path, annotations=[annotation(iscrowd=crowd)])
    assert not parse(tmp_path).records[0].annotations[0].crowd


def test_numbers_may_be_text_and_a_byte_order_mark_is_read(tmp_path):
    make_folder(
        tmp_path,
        images=[{"id": 0, "file_name": "0.png", "width": "40.0", "height": "30"}],
        annotations=[annotation(bbox=["4", "6", 20, 10], area="150", iscrowd="1")],
    )
    path = tmp_path / "train.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    (record,) = parse(tmp_path).records
    assert record.size == (30, 40) and record.annotations[0].box == (6, 4, 16, 24)
    assert record.annotations[0].crowd and record.annotations[0].area == 150


def test_a_url_stands_for_a_file_name(tmp_path):
    """As in LVIS."""
    url = "http://images.cocodataset.org/train2017/1.png"
    make_folder(tmp_path, images=[{"id": 0, "coco_url": url}], annotations=[annotation()])
    source = load(tmp_path)
    assert source[0].image[0, 0, 0] == 1
    assert source.report.notes[1] == f"1 images found under another name, first: '{url}' is '1.png'"


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train.json"], "train"),
        (["annotations/instances_train2017.json", "annotations/captions_train2017.json"], "train"),
        (["annotations/instances_val.json"], "val"),
        (["valid/_annotations.coco.json"], "val"),
        (["test.json"], "test"),
        (["annotations/instances_default.json"], "train"),
        (["annotations/instances_Train.json"], "train"),
        (["via_export_coco.json"], "train"),
        (["annotations/lvis_v1_train.json", "annotations/lvis_v1_val.json"], "train"),
        (["train/labels.json", "val/labels.json"], "val"),
    ],
)
def test_usual_layouts_are_found(tmp_path, names, split):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"images": [], "categories": []}')
    read = find_coco(str(tmp_path))[split]
    assert pathlib.Path(read.args[0]) in [tmp_path / name for name in names]


def test_what_is_ambiguous_or_no_coco_is_not_found(tmp_path):
    (tmp_path / "notes.json").write_text('{"categories": [], "info": 1}')
    assert find_coco(str(tmp_path)) == {}
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"images": [], "categories": []}')
    assert find_coco(str(tmp_path)) == {}
    assert set(find_coco(str(tmp_path / "a.json"))) == {"train"}


def test_bccd_as_published():
    source = load(shared("data/bccd"))
    assert (len(source), source.report.boxes) == (205, 2804)
    assert source.report.dropped == {"box without width or height": 1}
    assert source.class_names.names == ("RBC", "WBC", "Platelets")


def test_a_slice_of_coco():
    source = open_coco("val", source_options(dir=str(shared("data/coco_slice"))))
    assert (len(source), len(source.class_names), source.report.crowd) == (33, 90, 3)
    assert source.report.dropped == {}
