import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.ops.box_fusion import weighted_box_fusion


@functools.partial(jax.jit, static_argnames=("num_views", "iou_threshold", "max_detections"))
def fuse(boxes, scores, classes, **options):
    return weighted_box_fusion(boxes, scores, classes, **options)


def fused(rows, num_views, **options):
    """[(box, score, class)] of up to four (box, score, class) rows, rounded."""
    rows = rows + [([0, 0, 0, 0], -np.inf, 0)] * (4 - len(rows))
    boxes, scores, classes = (np.array(column) for column in zip(*rows))
    found = fuse(
        boxes.astype(np.float32),
        scores.astype(np.float32),
        classes.astype(np.int32),
        num_views=num_views,
        **{"max_detections": 4, **options},
    )
    assert len(found[0]) == options.get("max_detections", 4)
    return [
        (box.astype(float).round(4).tolist(), round(float(score), 4), int(label))
        for box, score, label in zip(*map(np.asarray, found))
        if label >= 0
    ]


def test_two_views_of_one_object_are_averaged_by_their_scores():
    # IoU 90/110. Ends: (0.6·10 + 0.2·11)/0.8 = 10.25, (0.6·0 + 0.2·1)/0.8 = 0.25.
    rows = [([0, 0, 10, 10], 0.6, 2), ([0, 1, 10, 11], 0.2, 2)]
    box = [0.0, 0.25, 10.0, 10.25]
    assert fused(rows, 2) == [(box, 0.4, 2)] and fused(rows[::-1], 2) == [(box, 0.4, 2)]
    # Of four views, two saw nothing: half as certain.
    assert fused(rows, 4) == [(box, 0.2, 2)]
    # More boxes than views don't make it surer than their mean.
    assert fused(rows, 1) == [(box, 0.4, 2)]


def test_classes_and_objects_apart_are_not_fused():
    rows = [([0, 0, 10, 10], 0.6, 0), ([0, 0, 10, 10], 0.8, 1), ([50, 50, 60, 60], 0.4, 0)]
    assert fused(rows, 2) == [
        ([0, 0, 10, 10], 0.4, 1),
        ([0, 0, 10, 10], 0.3, 0),
        ([50, 50, 60, 60], 0.2, 0),
    ]
    # IoU exactly at the threshold: 5 of 10 rows.
    rows = [([0, 0, 10, 10], 0.6, 0), ([0, 0, 5, 10], 0.4, 0)]
    assert len(fused(rows, 2, iou_threshold=0.5)) == 2
    assert len(fused(rows, 2, iou_threshold=0.49)) == 1


def test_a_box_joins_the_fused_box_it_overlaps_most():
    # The first two make rows 0 to 11. The last of the scores matches both clusters: it overlaps this
    # one by 8 of 12 rows, and the other, rows 5.5 to 14, by 6.5 of 11.
    rows = [
        ([0, 0, 10, 10], 0.4, 0),
        ([0, 0, 12, 10], 0.4, 0),
        ([3, 0, 12, 10], 0.2, 0),
        ([5.5, 0, 14, 10], 0.35, 0),
    ]
    # (0.4·0 + 0.4·0 + 0.2·3)/1 = 0.6; (4 + 4.8 + 2.4)/1 = 11.2; 1/3 · min(3, 4)/4 = 0.25.
    assert fused(rows, 4) == [([0.6, 0, 11.2, 10], 0.25, 0), ([5.5, 0, 14, 10], 0.0875, 0)]


def test_only_the_best_are_returned_and_padding_is_none():
    rows = [([20 * n, 0, 20 * n + 10, 10], 0.1 * n, 0) for n in range(1, 4)]
    assert [score for _, score, _ in fused(rows, 1)] == pytest.approx([0.3, 0.2, 0.1])
    assert [score for _, score, _ in fused(rows, 1, max_detections=2)] == pytest.approx([0.3, 0.2])
    assert len(fused(rows, 1, max_detections=6)) == 3
    assert fused([], 1) == []
    # A score of nothing is still a box.
    assert fused([([0, 0, 10, 10], 0.0, 0)], 1) == [([0, 0, 10, 10], 0.0, 0)]


def plain_fusion(boxes, scores, classes, num_views, iou_threshold):
    """The paper's steps in loops and float64."""
    clusters = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        best, matched = iou_threshold, None
        for cluster in clusters:
            weights = np.array([scores[member] for member in cluster])
            box = weights @ np.array([boxes[member] for member in cluster]) / weights.sum()
            sides = np.minimum(box[2:], boxes[row][2:]) - np.maximum(box[:2], boxes[row][:2])
            shared = np.prod(np.maximum(sides, 0))
            areas = np.prod(box[2:] - box[:2]) + np.prod(boxes[row][2:] - boxes[row][:2])
            if classes[cluster[0]] == classes[row] and shared / (areas - shared) > best:
                best, matched = shared / (areas - shared), cluster
        clusters.append([row]) if matched is None else matched.append(row)
    rows = []
    for cluster in clusters:
        weights = np.array([scores[member] for member in cluster])
        box = weights @ np.array([boxes[member] for member in cluster]) / weights.sum()
        score = weights.mean() * min(len(cluster), num_views) / num_views
        rows.append((*box, score, classes[cluster[0]]))
    return np.array(sorted(rows, key=lambda row: -row[4]))


def views_of_objects(rng, views=4, objects=15):
    """Boxes [V·n, 4] in [0, 1], scores and classes: each view sees most objects, somewhat moved."""
    corners = rng.uniform(0, 0.7, (objects, 2))
    truth = np.concatenate([corners, corners + rng.uniform(0.05, 0.3, (objects, 2))], axis=1)
    boxes = truth + rng.normal(0, 0.012, (views, objects, 4))
    keep = rng.random((views, objects)) < 0.8
    classes = np.broadcast_to(rng.integers(0, 2, objects), keep.shape)
    scores = rng.uniform(0.05, 1, keep.shape)
    boxes = np.clip(boxes, 0, 1).astype(np.float32)
    return boxes, scores.astype(np.float32), classes.astype(np.int32), keep


def compared(expected, boxes, scores, classes, num_views):
    """The largest differences of boxes and scores from rows (box, score, class), best first."""
    found = fuse(boxes, scores, classes, num_views=num_views, max_detections=len(boxes))
    real = np.asarray(found[2]) >= 0
    boxes, scores, classes = (np.asarray(array)[real] for array in found)
    np.testing.assert_array_equal(classes, expected[:, 5])
    return np.abs(boxes - expected[:, :4]).max(), np.abs(scores - expected[:, 4]).max()


def test_equals_plain_loops(rng):
    for _ in range(5):
        boxes, scores, classes, keep = views_of_objects(rng)
        boxes, scores, classes = 100 * boxes.reshape(-1, 4), scores.ravel(), classes.ravel()
        seen = np.flatnonzero(keep)
        expected = plain_fusion(boxes[seen], scores[seen], classes[seen], 4, 0.55)
        padded = np.where(keep.ravel(), scores, -np.inf)
        differences = compared(expected, boxes, padded, classes, 4)
        assert differences[0] < 1e-4 and differences[1] < 1e-6


def test_equals_the_authors_program(rng):
    """`pip install ensemble-boxes`, by the paper's first author."""
    theirs = pytest.importorskip("ensemble_boxes").weighted_boxes_fusion
    worst = np.zeros(2)
    for _ in range(20):
        boxes, scores, classes, keep = views_of_objects(rng)
        lists = [
            [array[view][keep[view]] for view in range(4)] for array in (boxes, scores, classes)
        ]
        expected = theirs(*lists, iou_thr=0.55)
        expected = np.concatenate([expected[0], np.stack(expected[1:], axis=1)], axis=1)
        padded = np.where(keep.ravel(), scores.ravel(), -np.inf)
        found = compared(expected, boxes.reshape(-1, 4), padded, classes.ravel(), 4)
        worst = np.maximum(worst, found)
    print(f"largest difference: boxes {worst[0]:.1e} of the image's side, scores {worst[1]:.1e}")
    assert worst.max() < 1e-6


def test_a_batch_is_fused_image_by_image(rng):
    images = [views_of_objects(rng) for _ in range(3)]
    boxes, scores, classes = (jnp.stack([image[n] for image in images]) for n in range(3))
    arrays = boxes.reshape(3, -1, 4), scores.reshape(3, -1), classes.reshape(3, -1)
    together = jax.jit(
        jax.vmap(functools.partial(weighted_box_fusion, num_views=4, max_detections=60))
    )(*arrays)
    for number in range(3):
        alone = fuse(*(array[number] for array in arrays), num_views=4, max_detections=60)
        for one, other in zip(together, alone):
            np.testing.assert_allclose(one[number], other, atol=1e-6)
