import numpy as np
import pytest
from PIL import Image

from effdet_jax.data.example import DataError
from effdet_jax.data.yolo import find_yolo, open_yolo
from tests.doubles import source_options

# In an image of 40×30 (width × height): the box [6, 4, 16, 24], yxyx, as a box and as a polygon.
BOX = "1 0.35 0.36666666666666664 0.5 0.3333333333333333"
POLYGON = "0 0.1 0.2 0.6 0.3 0.2 0.5333333333333333"


def make(root, images, labels=BOX):
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / name)
        if labels is not None:
            path = root / name.replace("images", "labels")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(labels)
    return root


def opened(root, split="train", **changes):
    return open_yolo(split, source_options(dir=str(root), val_fraction=0.0) | changes)


@pytest.mark.parametrize("box", [BOX, f"{BOX} 0.93"], ids=["box", "with a score"])
def test_rows_are_boxes_or_polygons(tmp_path, box):
    make(tmp_path, ["images/a.png"], f"{box}\n{POLYGON}\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = opened(tmp_path)
    np.testing.assert_allclose(source[0].truth.boxes, [[6, 4, 16, 24]] * 2, atol=1e-5)
    assert source[0].truth.labels.tolist() == [1, 0] and source.class_names.names == ("cat", "dog")
    assert source.describe(0) == "image images/a.png 'images/a.png'"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 0.5 0.3", "box that isn't four finite numbers"),
        ("0 0.5 0.5 0.3 wide", "box that isn't four finite numbers"),
        ("0 0.5 0.5 0.3 0.3 wide", "box that isn't four finite numbers"),
        ("9 0.5 0.5 0.3 0.3", "box of a category that isn't listed"),
        ("cat 0.5 0.5 0.3 0.3", "box of a category that isn't listed"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, reason):
    make(tmp_path, ["images/a.png"], f"{BOX}\n{row}\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = opened(tmp_path)
    assert source.report.dropped == {reason: 1} and source.report.boxes == 1
    assert f"a.txt, line 2: '{row}'" in source.report.lines()[1]


def test_an_image_without_label_file_has_no_objects(tmp_path):
    make(tmp_path, ["images/a.png"])
    make(tmp_path, ["images/b.png"], labels="")
    make(tmp_path, ["images/c.png"], labels=None)
    source = opened(tmp_path)
    assert (len(source), source.report.empty, source.report.boxes) == (3, 2, 1)
    assert "1 images without a label file: taken as without objects" in source.report.notes


def test_classes_that_nothing_names_are_numbered(tmp_path):
    source = opened(
        make(tmp_path, ["a.png"])
    )  # Label files beside the images, as LabelImg has them.
    assert source.class_names.names == ("class_0", "class_1")
    assert any("nothing names the classes" in note for note in source.report.notes)


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",  # Roboflow.
        "path: ../datasets/mine\ntrain: train/images\nval: valid/images\nnames:\n  0: cat\n  1: dog\n",
        "train: [train/images]\nval: /home/me/valid/images\nnames: {1: dog, 0: cat}\n",
    ],
)
def test_splits_and_names_of_a_yaml(tmp_path, text):
    make(tmp_path, ["train/images/a.png", "valid/images/b.png"])
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8-sig")
    for split, name in (("train", "train/images/a.png"), ("val", "valid/images/b.png")):
        for root in (tmp_path, tmp_path / "data.yaml"):
            source = opened(root, split)
            assert source.describe(0) == f"image {name} '{name}'"
            assert source.class_names.names == ("cat", "dog")


def test_key_points_follow_a_box(tmp_path):
    make(tmp_path, ["images/train/a.png"], f"{BOX} 0.1 0.1 2 0.2 0.2 2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nkpt_shape: [2, 3]\nnames: [a, b]\n")
    np.testing.assert_allclose(opened(tmp_path)[0].truth.boxes, [[6, 4, 16, 24]], atol=1e-5)


def test_lists_and_obj_data_as_cvat_writes_them(tmp_path):
    make(tmp_path, ["obj_train_data/a.png", "obj_train_data/b.png"])
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names"
    )
    source = opened(tmp_path)
    assert len(source) == 2 and source.report.boxes == 2
    assert source.class_names.names == ("cat", "dog")


def test_folders_name_the_splits_where_nothing_else_does(tmp_path):
    make(tmp_path, ["images/train/a.png", "images/val/test_1.png"])
    assert set(find_yolo(str(tmp_path))) == {"train", "val"}
    assert len(opened(tmp_path, "val")) == 1


def test_what_is_no_yolo_is_not_found(tmp_path):
    make(tmp_path, ["a.png"], labels="A cat on a chair, seen from above")
    (tmp_path / "ci.yaml").write_text("jobs: 3\n")
    assert find_yolo(str(tmp_path)) == {}
    (tmp_path / "data.yaml").write_text("train: [\n")
    with pytest.raises(DataError, match=r"data.yaml: not YAML"):
        find_yolo(str(tmp_path))
