import numpy as np
import pytest
from PIL import Image

from effdet_jax.data.example import DataError
from effdet_jax.data.folders import open_folders, whole_image
from effdet_jax.data.source import SOURCES
from tests.doubles import source_options


def save(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (level, 0, 0)).save(path)


def opened(root, split, **options):
    return SOURCES["folders"](split, source_options(dir=str(root), **options))


def test_a_folder_is_a_class_and_its_images_have_a_box_around_them(tmp_path):
    save(tmp_path / "train/dog/a.png", 1)
    save(tmp_path / "train/cat/deeper/b.PNG", 2)
    save(tmp_path / "valid/cat/c.png", 3)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    source = opened(tmp_path, "train")
    assert source.class_names.names == ("cat", "dog") and len(source) == 2
    cat = source[0]
    assert cat.image[0, 0, 0] == 2 and cat.truth.labels.tolist() == [0]
    np.testing.assert_array_equal(cat.truth.boxes, [[0, 0, 30, 40]])
    assert [truth.labels.tolist() for truth in source.ground_truth()] == [[0], [1]]
    assert cat.truth.image_id == "cat/deeper/b.PNG" and "dog/a.png" in source.describe(1)
    assert source.report.lines()[0] == "2 images of 2 classes, a folder each"
    assert source.report.classes == {"cat": 1, "dog": 1}
    assert opened(tmp_path, "val")[0].image[0, 0, 0] == 3


def test_validation_images_are_drawn_where_there_are_none(tmp_path):
    for number in range(10):
        save(tmp_path / f"{'ab'[number % 2]}/{number}.png", number)
    train, val = (opened(tmp_path, split, val_fraction=0.2) for split in ("train", "val"))
    assert len(train) == 8 and len(val) == 2 and not set(train.paths) & set(val.paths)
    assert val.class_names == train.class_names
    assert "2 of 10 images are drawn" in " ".join(train.report.notes)
    assert opened(tmp_path, "val", val_fraction=0.0) is None


def test_what_is_no_image_is_found_as_it_is_read(tmp_path):
    save(tmp_path / "a/0.png")
    (tmp_path / "a/1.png").write_bytes(b"nothing")
    source = opened(tmp_path, "train", val_fraction=0.0)
    assert source[1].error and not len(source[1].truth.boxes) and not source[0].error


def test_a_folder_without_classes_says_what_is_needed(tmp_path):
    save(tmp_path / "0.png")
    with pytest.raises(DataError, match="a folder for each class is needed"):
        opened(tmp_path, "train")
    with pytest.raises(DataError, match="doesn't exist"):
        open_folders("train", source_options(dir=str(tmp_path / "none")))


def test_the_box_is_all_of_the_image():
    truth = whole_image(7, (3, 4), 2)
    assert truth.boxes.tolist() == [[0, 0, 3, 4]] and truth.area.tolist() == [12.0]
