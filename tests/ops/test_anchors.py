import numpy as np
import pytest

from effdet_jax.ops.anchors import anchor_boxes, corner_anchor_boxes, feature_size
from tests.conftest import shared


@pytest.mark.parametrize(
    ("size", "level", "expected"),
    [((512, 512), 3, (64, 64)), ((511, 513), 3, (64, 65)), ((300, 150), 2, (75, 38))],
)
def test_feature_size_rounds_up(size, level, expected):
    assert feature_size(size, level) == expected


def test_one_anchor_by_hand():
    # google/automl's tflite test: image 8, level 1, scale 1, one aspect: a 2 px square in the
    # first cell, whose centre is at 1 px.
    anchors = anchor_boxes((8, 8), [1], octaves=1, aspects=[(1.0, 1.0)], scale=1.0)[1]
    assert anchors.shape == (4, 4, 1, 4)
    np.testing.assert_array_equal(anchors[0, 0, 0], [0.0, 0.0, 2.0, 2.0])
    np.testing.assert_array_equal(anchors[1, 2, 0], [2.0, 4.0, 4.0, 6.0])


def test_order_is_octave_then_aspect_and_aspect_is_width_by_height():
    anchors = anchor_boxes((64, 64), [3], octaves=2, aspects=[(1.0, 1.0), (2.0, 0.5)], scale=4.0)
    cell = anchors[3][3, 3]
    heights, widths = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
    root = 2**0.5  # second octave of two
    np.testing.assert_allclose(heights, [32, 16, 32 * root, 16 * root], rtol=1e-5)
    np.testing.assert_allclose(widths, [32, 64, 32 * root, 64 * root], rtol=1e-5)


def test_stride_is_a_fraction_where_sizes_do_not_divide():
    anchors = anchor_boxes((100, 100), [3], octaves=1, aspects=[(1.0, 1.0)], scale=1.0)[3]
    assert anchors.shape[:2] == (13, 13)
    np.testing.assert_allclose(anchors[0, 0, 0], [0, 0, 100 / 13, 100 / 13], rtol=1e-6)


def test_corner_anchors_by_hand():
    """torchvision's sizes 32, 40, 50 and ratios (height / width) ½, 1, 2, rounded."""
    root = 2**0.5
    aspects = [(root, 1 / root), (1.0, 1.0), (1 / root, root)]
    options = {"octaves": 3, "aspects": aspects, "scale": 4.0}
    cells = corner_anchor_boxes((100, 64), [3], **options)[3]
    assert cells.shape == (13, 8, 9, 4)
    # 32 √½ = 22.6 high and 45.3 wide: ±11 and ±23. Squares of 32, 40 (not 40.3) and 50 px follow.
    np.testing.assert_array_equal(cells[0, 0, 0], [-11, -23, 11, 23])
    np.testing.assert_array_equal(cells[0, 0, 4], [-20, -20, 20, 20])
    np.testing.assert_array_equal(cells[0, 0, 8], [-35, -18, 35, 18])  # 50 · √2 = 70.7, 35.4
    # The stride is 100 // 13 = 7 pixels down and 8 to the right.
    np.testing.assert_array_equal(cells[2, 3, 4], [14 - 20, 24 - 20, 14 + 20, 24 + 20])


def flat(anchors):
    return np.concatenate([level.reshape(-1, 4) for level in anchors.values()])


def test_equal_to_the_official_anchors_bit_for_bit():
    recorded = np.load(shared("goldens/automl_d0_128/det.npz"))
    root = 2**0.5
    exact = ((1.0, 1.0), (root, 1 / root), (1 / root, root))
    found = anchor_boxes((128, 128), range(3, 8), aspects=exact)
    np.testing.assert_array_equal(flat(found), recorded["anchors"])
    found = anchor_boxes((128, 128), range(3, 8))
    np.testing.assert_array_equal(flat(found), recorded["anchors_rounded_aspects"])


def test_equal_to_pytorch_on_an_oblong_image():
    recorded = np.load(shared("goldens/tf_efficientdet_d0/ref_128x256.npz"))
    np.testing.assert_array_equal(flat(anchor_boxes((128, 256), range(3, 8))), recorded["anchors"])
