import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data import masks
from effdet_jax.data.example import DataError
from effdet_jax.data.source import open_source
from tests.doubles import make_folder, source_options

SQUARE = [4, 6, 14, 6, 14, 16, 4, 16]  # x 4 … 14, y 6 … 16.


def annotations(*rows):
    boxes = [{"bbox": [4, 6, 10, 10], "category_id": 5, "image_id": 0, "id": n} for n in range(9)]
    return [box | row for box, row in zip(boxes, rows)]


def open_training(folder, needs=("masks",)):
    options = source_options(dir=str(folder), val_fraction=0.0, needs=needs)
    return open_source("coco", "train", options)


def test_polygons_and_rle_are_drawn_and_smaller_objects_lie_on_top(tmp_path):
    small = np.zeros((30, 40), np.uint8, order="F")
    small[8:10, 6:9] = 1
    encoded = rle.encode(small)
    encoded["counts"] = encoded["counts"].decode()
    rows = annotations(
        {"segmentation": encoded, "bbox": [6, 8, 3, 2], "category_id": 2},
        {"segmentation": [SQUARE]},
    )
    make_folder(tmp_path, annotations=rows)
    source = open_training(tmp_path)
    names, mask = source.class_names.of_masks, source[0].mask
    assert mask.shape == (30, 40) and mask.dtype == np.uint8
    expected = np.zeros((30, 40), np.uint8)
    expected[6:16, 4:14] = names.index("cat")
    expected[8:10, 6:9] = names.index("dog")
    np.testing.assert_array_equal(mask, expected)
    assert not source[1].mask.any(), "an image without objects is background"


def test_crowds_and_objects_without_an_outline_are_ignored_and_counted(tmp_path):
    rows = annotations(
        {"segmentation": [SQUARE], "iscrowd": 1},
        {"bbox": [20, 0, 10, 10]},
        {"bbox": [30, 0, 5, 5], "segmentation": [[1, 2]]},
    )
    make_folder(tmp_path, annotations=rows)
    source = open_training(tmp_path)
    mask = source[0].mask
    assert set(np.unique(mask)) == {0, IGNORED_PIXEL}
    assert (mask == IGNORED_PIXEL).sum() == 100 + 100 + 25
    assert source.report.dropped[masks.WITHOUT_OUTLINE] == 1
    assert source.report.dropped[masks.BROKEN_OUTLINE] == 1


def test_detection_reads_no_masks_and_masks_need_some(tmp_path):
    make_folder(tmp_path)
    assert open_training(tmp_path, needs=("boxes",))[0].mask is None
    with pytest.raises(DataError, match="no image has a mask, and no object a polygon"):
        open_training(tmp_path)


def test_an_outline_in_any_of_cocos_forms():
    flat, nested = masks.parse_shape(SQUARE), masks.parse_shape([SQUARE, [1, 2, 3, 4]])
    np.testing.assert_array_equal(flat[0], SQUARE)
    assert len(nested) == 1, "two points have no area"
    counted = masks.parse_shape({"size": [2, 2], "counts": [1, 3]})
    np.testing.assert_array_equal(rle.decode(counted), [[0, 1], [1, 1]])
    for broken in ([], [["a"]], {"size": [2, 2]}, 7, json.loads("null")):
        assert masks.parse_shape(broken) is None


def test_a_mask_in_colours_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(DataError, match="mask.png: a mask of mode RGB; masks are indexed or grey"):
        masks.read_values(str(path))
