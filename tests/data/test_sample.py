import dataclasses

import numpy as np
import pytest

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data import transforms
from effdet_jax.data.example import Example, make_truth
from effdet_jax.data.sample import Sample, create_sample


@pytest.fixture
def padded():
    """10×20 pixels of value 9 on a canvas of 16×24, with a box."""
    image = np.zeros((16, 24, 3), np.uint8)
    image[:10, :20] = 9
    return Sample(image, np.array([[2, 4, 8, 16]], np.float32), np.array([1], np.int32), (10, 20))


def test_crowds_are_not_trained_on_and_boxes_are_cut_to_the_image():
    rows = [((-5, -5, 10, 10), 0, False, 1.0), ((0, 0, 9, 9), 1, True, 1.0)]
    sample = create_sample(Example(np.zeros((20, 30, 3), np.uint8), make_truth(0, (20, 30), rows)))
    np.testing.assert_array_equal(sample.boxes, [[0, 0, 10, 10]])
    assert sample.labels.tolist() == [0] and sample.content == (20, 30)


def test_pixels_leave_the_padding_out_and_new_ones_come_in_their_place(padded):
    assert padded.pixels.shape == (10, 20, 3) and (padded.pixels == 9).all()
    changed = padded.with_pixels(padded.pixels + 1)
    assert (changed.pixels == 10).all() and changed.image.sum() == 10 * 10 * 20 * 3
    assert padded.image.max() == 9, "the array it was made from has changed"


def test_letterbox_takes_the_pixels_without_the_padding_and_the_boxes_along(padded):
    half = padded.letterbox(transforms.fit(padded.content, (8, 10)))
    assert half.image.shape == (8, 10, 3) and half.content == (5, 10)
    assert (half.pixels == 9).all() and not half.image[5:].any()
    np.testing.assert_array_equal(half.boxes, [[1, 2, 4, 8]])


def test_letterbox_leaves_boxes_out_that_are_cropped_away(padded):
    right = padded.letterbox(transforms.Placement((10, 20), (0, 17), (10, 3)))
    assert right.boxes.shape == (0, 4) and right.labels.shape == (0,)


@pytest.fixture
def masked(padded):
    """`padded` with a mask that is 1 in its box and ignored on the padding."""
    mask = np.full((16, 24), IGNORED_PIXEL, np.uint8)
    mask[:10, :20] = 0
    mask[2:8, 4:16] = 1
    return dataclasses.replace(padded, mask=mask)


def box_of(mask):
    rows, columns = np.nonzero(mask == 1)
    return [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def test_a_mask_goes_where_its_boxes_go(masked):
    moved = [masked.flip_horizontally(), masked.flip_vertically()]
    moved += [masked.letterbox(transforms.fit(masked.content, (20, 40)))]
    moved += [masked.letterbox(transforms.Placement((20, 40), (6, 10), (10, 16)))]
    for sample in moved:
        box = np.minimum(sample.boxes[0], box_of(sample.mask))  # Boxes end at side - 1.
        np.testing.assert_array_equal(box, sample.boxes[0])
        assert np.abs(sample.boxes[0] - box_of(sample.mask)).max() <= 1
        height, width = sample.content
        assert IGNORED_PIXEL not in sample.mask[:height, :width]
        assert (sample.mask[height:] == IGNORED_PIXEL).all()
        assert (sample.mask[:, width:] == IGNORED_PIXEL).all()
    assert box_of(masked.mask) == [2, 4, 8, 16], "the array it was made from has changed"


def test_without_a_mask_there_is_none_after_any_step(padded):
    fitted = padded.letterbox(transforms.fit(padded.content, (8, 10)))
    assert padded.flip_horizontally().mask is None and fitted.mask is None
