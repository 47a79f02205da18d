import dataclasses

import numpy as np
import pytest
from pycocotools import mask as rle

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.detection.segment import Masks
from effdet_jax.evaluation.masks import MaskScorer
from tests.doubles import Truths


class Masked(Truths):
    """Images of 4×4 with masks."""

    def __init__(self, masks):
        super().__init__([[] for _ in masks], names=("cat", "dog"), size=(4, 4))
        self._masks = masks

    def __getitem__(self, index):
        return dataclasses.replace(super().__getitem__(index), mask=self._masks[index])


def mask(*rows):
    return np.array(rows, np.uint8)


def test_iou_is_counted_over_all_images_by_hand():
    true = mask([1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [IGNORED_PIXEL] * 4)
    found = mask([1, 1, 1, 0], [1, 0, 0, 0], [0] * 4, [2] * 4)
    scorer = MaskScorer(Masked([true, np.zeros((4, 4), np.uint8)]))
    rows = scorer.rows(0, Masks(found)) + scorer.rows(1, Masks(np.zeros((4, 4), np.uint8)))
    result = scorer.evaluation(rows, unreadable=[], first={}, loss={})
    # Cat: 3 of 4 + 4 - 3; background: 7 of 8 + 8 - 7 in the first, all 16 in the second.
    assert result.per_class == pytest.approx({"background": 23 / 25, "cat": 3 / 5})
    assert result.value == result.summary["mIoU"] == pytest.approx((23 / 25 + 3 / 5) / 2)
    assert result.summary["pixel_accuracy"] == pytest.approx((23 + 3) / 28)
    assert result.num_images == 2 and result.lines()[0] == "mIoU 0.760  pixels 0.929 right"
    assert result.to_dict()["classes"]["dog"]["iou"] is None, "all its pixels are ignored"
    assert result.table()[1][1][3:] == (4, 4) or result.table()[1][1][3:] == [4, 4]


def test_rows_hold_cocos_rle_of_what_is_predicted():
    found = mask([2, 2, 0, 0], *[[0] * 4] * 3)
    rows = MaskScorer(Masked([np.zeros((4, 4), np.uint8)])).rows(0, Masks(found))
    (dog,) = (row for row in rows if row["category_name"] == "dog")
    assert dog["category_id"] == 2 and dog["image_id"] == 0
    np.testing.assert_array_equal(rle.decode(dog["segmentation"]), found == 2)


def test_masks_are_compared_in_the_images_own_size():
    true = np.zeros((4, 4), np.uint8)
    true[:, 2:] = 1
    canvas = np.full((8, 12), 2, np.uint8)  # The image covers 8×8 of it; the rest is padding.
    canvas[:, :4], canvas[:, 4:8] = 0, 1
    scorer = MaskScorer(Masked([true]))
    assert scorer.evaluation(scorer.rows(0, Masks(canvas))).value == 1.0


def test_without_a_true_pixel_there_is_no_number():
    scorer = MaskScorer(Masked([np.full((4, 4), IGNORED_PIXEL, np.uint8)]))
    result = scorer.evaluation(scorer.rows(0, Masks(np.zeros((4, 4), np.uint8))))
    assert result.lines() == ["no true pixels, no mIoU"] and result.value == 0.0
