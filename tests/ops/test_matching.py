import jax
import jax.numpy as jnp
import numpy as np

from effdet_jax.ops.matching import match
from tests.ops.test_boxes import numpy_iou, random_boxes


def match_one(boxes, anchors, valid=None, **options):
    boxes = jnp.asarray(boxes, jnp.float32)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    anchors = {3: jnp.asarray(anchors, jnp.float32)}
    return np.asarray(match(boxes[None], valid[None], anchors, **options)[3][0])


def numpy_match(boxes, anchors, threshold=0.5):
    """The reference's rule in plain loops."""
    table = numpy_iou(boxes, anchors)
    matches = []
    for column in table.T:
        best = int(np.argmax(column))
        matches.append(best if column[best] >= threshold else -1)
    claims = {}
    for row, overlaps in enumerate(table):
        claims.setdefault(int(np.argmax(overlaps)), row)  # The first box keeps an anchor.
    for anchor, row in claims.items():
        matches[anchor] = row
    return np.array(matches)


def test_threshold_is_met_from_half_on():
    # The anchor is twice the box: IoU 0.5 exactly.
    anchors = [[0, 0, 10, 20], [0, 0, 10, 10], [0, 0, 10, 21]]
    np.testing.assert_array_equal(match_one([[0, 0, 10, 10]], anchors), [0, 0, -1])


def test_a_box_claims_its_best_anchor_below_the_threshold():
    anchors = [[0, 0, 4, 4], [50, 50, 60, 60]]
    np.testing.assert_array_equal(match_one([[2, 2, 12, 12]], anchors), [0, -1])


def test_a_claim_takes_an_anchor_from_its_better_box():
    # Box 1 overlaps the only anchor less than box 0 does, but has no other.
    anchors = [[0, 0, 10, 10], [100, 100, 110, 110], [0, 0, 10, 9]]
    boxes = [[0, 0, 10, 9], [4, 0, 14, 10]]
    # Box 0 is anchor 2 exactly and claims it; box 1 claims anchor 0, which preferred box 0.
    np.testing.assert_array_equal(match_one(boxes, anchors), [1, -1, 0])


def test_two_boxes_that_claim_one_anchor_the_first_gets_it():
    anchors = [[0, 0, 10, 10], [90, 90, 99, 99]]
    boxes = [[0, 0, 3, 3], [0, 0, 4, 4]]
    np.testing.assert_array_equal(match_one(boxes, anchors), [0, -1])


def test_equal_anchors_tie_to_the_first():
    anchors = [[0, 0, 4, 4], [0, 0, 4, 4]]
    np.testing.assert_array_equal(match_one([[0, 0, 8, 8]], anchors), [0, -1])


def test_a_box_without_overlap_claims_anchor_zero():
    anchors = [[0, 0, 4, 4], [8, 8, 12, 12]]
    np.testing.assert_array_equal(match_one([[50, 50, 60, 60]], anchors), [0, -1])


def test_padding_matches_nothing():
    anchors = [[0, 0, 4, 4], [8, 8, 12, 12]]
    boxes = [[0, 0, 4, 4], [8, 8, 12, 12]]
    np.testing.assert_array_equal(match_one(boxes, anchors, [False, True]), [-1, 1])
    np.testing.assert_array_equal(match_one(boxes, anchors, [False, False]), [-1, -1])


def test_no_boxes_at_all():
    anchors = [[0, 0, 4, 4], [8, 8, 12, 12]]
    np.testing.assert_array_equal(match_one(np.zeros((0, 4)), anchors), [-1, -1])


def test_equals_plain_loops_with_more_than_a_hundred_boxes(rng):
    boxes, anchors = random_boxes(rng, 130), random_boxes(rng, 400)
    expected = numpy_match(boxes, anchors)
    np.testing.assert_array_equal(match_one(boxes, anchors), expected)
    # The same anchors as two levels of a pyramid, jitted.
    levels = {3: anchors[:300].reshape(5, 10, 6, 4), 4: anchors[300:].reshape(5, 10, 2, 4)}
    found = jax.jit(lambda: match(jnp.asarray(boxes)[None], jnp.ones((1, 130), bool), levels))()
    flat = np.concatenate([np.ravel(found[level]) for level in levels])
    np.testing.assert_array_equal(flat, expected)
