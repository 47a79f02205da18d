import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.ops.nms import hard_nms, soft_nms, top_k_pairs, top_k_pairs_of_each
from tests.ops.test_boxes import numpy_iou, random_boxes


def candidates(rng, count, classes=3):
    """Sorted random candidates: boxes [n, 4], scores [n], classes [n]."""
    boxes = random_boxes(rng, count)
    scores = np.sort(rng.uniform(0.01, 1, count).astype(np.float32))[::-1].copy()
    return boxes, scores, rng.integers(0, classes, count).astype(np.int32)


def numpy_hard_nms(boxes, classes, iou_threshold, most):
    """Greedy suppression in plain loops, candidates best first."""
    table, kept = numpy_iou(boxes, boxes), []
    for i in range(len(boxes)):
        if all(classes[i] != classes[j] or table[j, i] <= iou_threshold for j in kept):
            kept.append(i)
    return kept[:most]


def numpy_soft_nms(boxes, scores, classes, sigma, score_threshold, most):
    """Gaussian soft suppression, class by class as the reference does, then the best of all."""
    table, found = numpy_iou(boxes, boxes), []
    for label in np.unique(classes):
        alive = {int(i): float(scores[i]) for i in np.flatnonzero(classes == label)}
        while alive:
            best = max(alive, key=alive.get)
            found.append((alive.pop(best), best))
            alive = {
                i: score * np.exp(-(table[best, i] ** 2) / sigma) for i, score in alive.items()
            }
            alive = {i: score for i, score in alive.items() if score >= score_threshold}
    return sorted(found, reverse=True)[:most]


def test_hard_nms_by_hand():
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60]], jnp.float32)
    scores = jnp.array([0.9, 0.8, 0.7, 0.6])
    # IoU with the first: 0.9, 0.5, 0. A box of IoU exactly 0.5 stays.
    kept, kept_scores = hard_nms(boxes, scores, jnp.zeros(4, jnp.int32), max_detections=5)
    np.testing.assert_array_equal(kept, [0, 2, 3, -1, -1])
    np.testing.assert_allclose(kept_scores, [0.9, 0.7, 0.6, 0, 0], rtol=1e-6)


def test_classes_do_not_suppress_each_other():
    boxes = jnp.tile(jnp.array([[0.0, 0.0, 10.0, 10.0]]), (3, 1))
    kept, _ = hard_nms(boxes, jnp.array([0.9, 0.8, 0.7]), jnp.array([0, 1, 0]), max_detections=3)
    np.testing.assert_array_equal(kept, [0, 1, -1])


@pytest.mark.parametrize("count", [1, 127, 128, 400])
def test_hard_nms_equals_plain_loops(rng, count):
    boxes, scores, classes = candidates(rng, count)
    kept, _ = jax.jit(lambda *a: hard_nms(*a, max_detections=60))(boxes, scores, classes)
    expected = numpy_hard_nms(boxes, classes, 0.5, 60)
    np.testing.assert_array_equal(kept[: len(expected)], expected)
    assert (kept[len(expected) :] == -1).all()


def test_hard_nms_resolves_chains_within_a_block():
    # Each box overlaps the next by IoU 0.6: greedy keeps every other one.
    start = np.arange(64) * 2.5
    boxes = np.stack([start, np.zeros(64), start + 10, np.full(64, 10)], 1).astype(np.float32)
    scores = np.linspace(1, 0.5, 64, dtype=np.float32)
    kept, _ = hard_nms(jnp.asarray(boxes), jnp.asarray(scores), jnp.zeros(64, jnp.int32))
    np.testing.assert_array_equal(kept[:32], np.arange(0, 64, 2))
    assert kept[32] == -1


def test_hard_nms_keeps_no_padding():
    boxes = jnp.tile(jnp.array([[0.0, 0.0, 10.0, 10.0]]), (3, 1))
    scores = jnp.array([0.5, -jnp.inf, -jnp.inf])
    kept, kept_scores = hard_nms(boxes, scores, jnp.array([0, 1, 2]), max_detections=3)
    np.testing.assert_array_equal(kept, [0, -1, -1])
    np.testing.assert_array_equal(kept_scores, [0.5, 0, 0])


def test_soft_nms_by_hand():
    # google/automl's probe of TensorFlow's op: IoU of 0.9 and 0.3 with the best, σ 0.5.
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9]], jnp.float32)
    kept, scores = soft_nms(boxes, jnp.array([0.9, 0.8]), jnp.zeros(2, jnp.int32), max_detections=3)
    np.testing.assert_array_equal(kept, [0, 1, -1])
    np.testing.assert_allclose(scores, [0.9, 0.8 * np.exp(-(0.9**2) / 0.5), 0], rtol=1e-6)


def test_soft_nms_keeps_the_best_of_a_class_below_the_threshold():
    boxes = jnp.array([[0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 60, 60]], jnp.float32)
    scores = jnp.array([0.0009, 0.0008, 0.0005])
    kept, _ = soft_nms(boxes, scores, jnp.array([0, 0, 1]), max_detections=3)
    np.testing.assert_array_equal(kept, [0, 2, -1])


@pytest.mark.parametrize("count", [1, 200])
def test_soft_nms_equals_plain_loops_per_class(rng, count):
    boxes, scores, classes = candidates(rng, count)
    kept, kept_scores = jax.jit(lambda *a: soft_nms(*a, max_detections=40))(boxes, scores, classes)
    expected = numpy_soft_nms(boxes, scores, classes, 0.5, 0.001, 40)
    np.testing.assert_array_equal(kept[: len(expected)], [index for _, index in expected])
    np.testing.assert_allclose(
        kept_scores[: len(expected)], [score for score, _ in expected], rtol=1e-5
    )


def test_pixel_offset_counts_sides_one_longer():
    # Without offset the boxes only touch; with it they share one row of pixels: 11 of 231.
    boxes = jnp.array([[0, 0, 10, 10], [10, 0, 20, 10]], jnp.float32)
    arguments = (boxes, jnp.array([0.9, 0.8]), jnp.zeros(2, jnp.int32))
    assert soft_nms(*arguments)[1][1] == np.float32(0.8)
    iou = 11 / (2 * 121 - 11)
    np.testing.assert_allclose(
        soft_nms(*arguments, pixel_offset=1.0)[1][1], 0.8 * np.exp(-(iou**2) / 0.5), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("sizes", "classes", "k"),
    [((300,), 7, 50), ((200, 70, 30), 7, 50), ((15, 5), 5, 64), ((9,), 1, 20), ((6, 4), 3, 1)],
)
@pytest.mark.parametrize("decimals", [8, 0])  # Rounded, most logits are equal to others.
def test_top_k_pairs_equals_a_full_sort(rng, sizes, classes, k, decimals):
    logits = rng.normal(size=(sum(sizes), classes)).round(decimals).astype(np.float32) + 0.0
    levels = np.split(logits, np.cumsum(sizes)[:-1])
    best, rows, columns = top_k_pairs([jnp.asarray(level) for level in levels], k)
    order = np.argsort(-logits.reshape(-1), kind="stable")[:k]
    np.testing.assert_array_equal(best, logits.reshape(-1)[order])
    np.testing.assert_array_equal(rows * classes + columns, order)


def test_top_k_pairs_of_each_takes_as_many_of_a_level():
    levels = [jnp.array([[9.0, 8.0], [7.0, 1.0]]), jnp.array([[2.0, 8.5]]), jnp.array([[0.5, 0.1]])]
    best, anchors, classes = top_k_pairs_of_each(levels, 2)
    np.testing.assert_array_equal(best, np.float32([9, 8.5, 8, 2, 0.5, 0.1]))
    np.testing.assert_array_equal(anchors, [0, 2, 0, 2, 3, 3])
    np.testing.assert_array_equal(classes, [0, 1, 1, 0, 0, 1])


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-42, np.inf, -np.inf])
def test_top_k_pairs_breaks_ties_by_flat_index(value):
    best, rows, columns = top_k_pairs([jnp.full((6, 4), value)], 5)
    np.testing.assert_array_equal(rows * 4 + columns, np.arange(5))
    assert (best == value).all()


def test_top_k_pairs_survives_values_that_are_no_numbers():
    logits = np.float32([[0, 1], [np.nan, 2], [4, 3], [6, 5]])
    best, rows, columns = top_k_pairs([jnp.asarray(logits)], 3)
    assert np.isnan(best[0]) and (int(rows[0]), int(columns[0])) == (1, 0)
    np.testing.assert_array_equal(best[1:], [6, 5])
