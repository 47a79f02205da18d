import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.ops import boxes as box_ops


def numpy_iou(a, b):
    """Plain loops over two lists of yxyx boxes."""
    table = np.zeros((len(a), len(b)))
    for i, (top, left, bottom, right) in enumerate(a):
        for j, other in enumerate(b):
            height = min(bottom, other[2]) - max(top, other[0])
            width = min(right, other[3]) - max(left, other[1])
            shared = max(height, 0) * max(width, 0)
            total = (bottom - top) * (right - left) + (other[2] - other[0]) * (other[3] - other[1])
            table[i, j] = shared / (total - shared) if shared else 0
    return table


def random_boxes(rng, count, size=100.0):
    corner = rng.uniform(0, size * 0.8, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size * 0.4, (count, 2))], 1).astype(
        np.float32
    )


def test_area_is_height_times_width():
    assert box_ops.area(jnp.array([[1.0, 2.0, 4.0, 7.0]]))[0] == 15.0


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0, 0, 2, 2], 1.0),  # itself
        ([0, 1, 2, 3], 1 / 3),  # half of each
        ([1, 1, 3, 3], 1 / 7),  # one of seven unit squares
        ([2, 0, 4, 2], 0.0),  # touches
        ([5, 5, 6, 6], 0.0),  # apart
        ([1, 1, 1, 3], 0.0),  # no height
    ],
)
def test_iou_by_hand(other, expected):
    box = jnp.array([0.0, 0.0, 2.0, 2.0])
    np.testing.assert_allclose(box_ops.iou(box, jnp.array(other, jnp.float32)), expected, rtol=1e-6)


def test_iou_of_all_pairs_equals_plain_loops(rng):
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    found = box_ops.iou(jnp.asarray(a)[:, None], jnp.asarray(b))
    np.testing.assert_allclose(found, numpy_iou(a, b), atol=1e-6)


def test_degenerate_boxes_have_zero_iou_with_everything():
    point = jnp.array([3.0, 3.0, 3.0, 3.0])
    assert box_ops.iou(point, point) == 0.0
    assert box_ops.iou(point, jnp.array([0.0, 0.0, 9.0, 9.0])) == 0.0


def test_encode_by_hand():
    anchor = jnp.array([0.0, 0.0, 10.0, 20.0])  # centre (5, 10)
    box = jnp.array([5.0, 0.0, 25.0, 20.0])  # centre (15, 10), twice as high
    expected = [10 / 10, 0.0, np.log(2.0), 0.0]
    np.testing.assert_allclose(box_ops.encode(box, anchor), expected, atol=1e-6)


def test_decode_inverts_encode(rng):
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    deltas = box_ops.encode(jnp.asarray(boxes), jnp.asarray(anchors))
    np.testing.assert_allclose(box_ops.decode(deltas, jnp.asarray(anchors)), boxes, atol=1e-3)


def test_encode_of_a_box_without_area_is_finite():
    anchor = jnp.array([0.0, 0.0, 10.0, 10.0])
    deltas = box_ops.encode(jnp.array([4.0, 4.0, 4.0, 4.0]), anchor)
    assert np.isfinite(deltas).all()
    np.testing.assert_allclose(deltas[2], np.log(1e-9), rtol=1e-5)  # 1e-8 px over 10 px


def test_clip_cuts_to_the_image():
    boxes = jnp.array([[-3.0, 5.0, 50.0, 90.0]])
    clipped = box_ops.clip(boxes, jnp.array([[40.0, 80.0]]))
    np.testing.assert_array_equal(clipped, [[0.0, 5.0, 40.0, 80.0]])


def test_mirror_by_hand_and_twice():
    found = box_ops.mirror(jnp.array([[1.0, 2.0, 3.0, 10.0]]), jnp.array([12.0]))
    np.testing.assert_array_equal(found, [[1.0, 2.0, 3.0, 10.0]])
    off = jnp.array([[1.0, 0.0, 3.0, 10.0]])
    np.testing.assert_array_equal(box_ops.mirror(off, jnp.array([12.0])), [[1.0, 2.0, 3.0, 12.0]])
    np.testing.assert_array_equal(
        box_ops.mirror(box_ops.mirror(off, jnp.array([12.0])), jnp.array([12.0])), off
    )
