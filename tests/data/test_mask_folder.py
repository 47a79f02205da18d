import numpy as np
import pytest
from PIL import Image

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data.example import DataError
from effdet_jax.data.mask_folder import find_masks
from effdet_jax.data.source import open_source
from tests.doubles import source_options

TRIMAP = np.array([[1, 1, 3, 2], [2, 2, 2, 2], [2, 2, 2, 2]], np.uint8)


def pets(root, names=("a", "b", "c"), images="images", masks="annotations/trimaps", values=TRIMAP):
    for folder in (images, masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 3)).save(root / images / f"{name}.jpg")
        Image.fromarray(values).save(root / masks / f"{name}.png")


def open_split(root, split="train", kind="masks", **changes):
    options = {"dir": str(root), "val_fraction": 0.0, "needs": ("masks",)}
    return open_source(kind, split, source_options(**options | changes))


def test_oxfords_trimaps_with_named_values_and_lists(tmp_path):
    pets(tmp_path)
    (tmp_path / "classes.txt").write_text("1 pet\n2 background\n3 border\n")
    (tmp_path / "annotations" / "trainval.txt").write_text("a 1 1 1\nb 1 1 1\n")
    (tmp_path / "annotations" / "test.txt").write_text("c 1 1 1\n")
    source = open_split(tmp_path, kind="auto")
    assert source.class_names.of_masks == ("background", "pet", "border")
    np.testing.assert_array_equal(source[0].mask, [[1, 1, 2, 0], [0] * 4, [0] * 4])
    assert len(source) == 2 and len(open_split(tmp_path, "val")) == 1


def test_without_names_0_is_background_and_values_are_numbered(tmp_path):
    values = np.array([[0, 7, 255]], np.uint8)
    pets(tmp_path, images="train/images", masks="train/masks", values=values)
    source = open_split(tmp_path, rescale=True)
    assert source.class_names.names == ("class 7",) and source.class_names.ids == (7,)
    assert set(np.unique(source[0].mask)) == {0, 1, IGNORED_PIXEL}


def test_255_is_an_object_where_there_is_nothing_else(tmp_path):
    pets(tmp_path, values=np.where(TRIMAP == 1, 255, 0).astype(np.uint8))
    source = open_split(tmp_path)
    assert source.class_names.names == ("class 255",) and source[0].mask.sum() == 2


def test_names_in_lines_begin_with_background_and_unnamed_values_are_counted(tmp_path):
    pets(tmp_path)
    (tmp_path / "classes.txt").write_text("pet\nvoid\n")
    source = open_split(tmp_path)
    assert source.class_names.of_masks == ("background", "pet")
    np.testing.assert_array_equal(source[0].mask[0], [1, 1, 255, 255])  # 2 is void, 3 unnamed.
    assert source.report.dropped["value of masks that no class has (its pixels are ignored)"] == 1


def test_what_has_no_partner_is_counted_and_broken_masks_are_no_images(tmp_path):
    pets(tmp_path)
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "lonely.jpg")
    (tmp_path / "annotations" / "trimaps" / "b.png").write_bytes(b"no picture")
    source = open_split(tmp_path)
    assert len(source) == 2
    assert source.report.dropped["image without a mask"] == 1
    assert source.report.dropped["mask that can't be read"] == 1


def test_a_folder_of_masks_has_no_boxes_to_learn(tmp_path):
    pets(tmp_path)
    with pytest.raises(DataError, match="none of its 3 images has a usable box"):
        open_split(tmp_path, needs=("boxes", "masks"))
    assert find_masks(str(tmp_path / "images")) == {}
