import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.targets import BACKGROUND, IGNORE, assign
from effdet_jax.ops import boxes as box_ops
from effdet_jax.spec import EXACT_ASPECTS, model_spec
from tests.conftest import shared

SPEC = model_spec("efficientdet-d0", image_size=(128, 128), aspects=EXACT_ASPECTS)
ANCHORS = SPEC.anchors()
assign_128 = jax.jit(functools.partial(assign, ANCHORS))
OFFICIAL = ("twelve", "empty", "thirty", "ties", "exact_anchor", "tiny", "no_overlap")


def padded(boxes, labels, slots=32):
    """One image's ground truth in `slots` rows: ([1, G, 4], [1, G])."""
    all_boxes, all_labels = np.zeros((1, slots, 4), np.float32), np.full((1, slots), -1, np.int32)
    all_boxes[0, : len(boxes)], all_labels[0, : len(boxes)] = np.reshape(boxes, (-1, 4)), labels
    return jnp.asarray(all_boxes), jnp.asarray(all_labels)


def flat(levels):
    return np.concatenate([np.asarray(x).reshape(-1, *x.shape[4:]) for x in levels.values()])


@functools.cache
def official():
    with np.load(shared("goldens/automl_d0_128/det.npz")) as file:
        return {name: file[name] for name in file if name.startswith("labels/")}


@pytest.mark.parametrize("case", OFFICIAL)
def test_equal_to_the_official_labels(case):
    recorded = {key: official()[f"labels/{case}/{key}"] for key in (
        "gt_boxes", "gt_classes", "cls_targets", "box_targets", "num_positives"
    )}  # fmt: skip
    targets = assign_128(*padded(recorded["gt_boxes"], recorded["gt_classes"][:, 0] - 1))
    # Many equal anchors tie for a small box; float32 in the reference's order settles them alike.
    np.testing.assert_array_equal(flat(targets.labels), recorded["cls_targets"])
    np.testing.assert_allclose(flat(targets.box_deltas), recorded["box_targets"], atol=1e-6)
    np.testing.assert_array_equal(flat(targets.box_deltas) != 0, recorded["box_targets"] != 0)
    assert targets.num_positives[0] == recorded["num_positives"]


def test_the_same_without_compiling():
    recorded = {name: official()[f"labels/twelve/{name}"] for name in ("gt_boxes", "gt_classes")}
    truth = padded(recorded["gt_boxes"], recorded["gt_classes"][:, 0] - 1)
    one_by_one, compiled = assign(ANCHORS, *truth), assign_128(*truth)
    np.testing.assert_array_equal(flat(one_by_one.labels), flat(compiled.labels))
    np.testing.assert_allclose(flat(one_by_one.box_deltas), flat(compiled.box_deltas), atol=1e-6)
    assert one_by_one.num_positives == compiled.num_positives > 0


@pytest.mark.parametrize("case", ["ref_128", "ref_128x256"])
def test_equal_to_pytorch(case):
    with np.load(shared(f"goldens/tf_efficientdet_d0/{case}.npz")) as file:
        recorded = dict(file)
    spec = model_spec("efficientdet-d0", image_size=recorded["input"].shape[2:])
    classes = recorded["gt_classes_1based"].astype(np.int32)
    targets = jax.jit(functools.partial(assign, spec.anchors()))(
        recorded["gt_boxes_yxyx"], np.where(classes > 0, classes - 1, -1)
    )
    for level in spec.levels:
        np.testing.assert_array_equal(targets.labels[level], recorded[f"target_cls_P{level}"])
        expected = recorded[f"target_box_P{level}"].reshape(targets.box_deltas[level].shape)
        np.testing.assert_allclose(targets.box_deltas[level], expected, atol=1e-6)
    np.testing.assert_array_equal(targets.num_positives, recorded["target_num_positives"])


def test_official_input_reader_labels():
    """Targets of three COCO images as the official input pipeline made them."""
    with np.load(shared("goldens/automl_misc/preprocess.npz")) as file:
        recorded = {name: file[name] for name in file if name.startswith("reader_eval/")}
    truth = recorded["reader_eval/groundtruth_data"]  # [B, 100, 7] yxyx, original pixels, …, class
    spec = model_spec("efficientdet-d0", image_size=(256, 256), aspects=EXACT_ASPECTS)
    scale = recorded["reader_eval/image_scales"]
    labels = np.where(truth[..., 6] > 0, truth[..., 6] - 1, -1).astype(np.int32)
    labels = np.where(truth[..., 4] > 0, -1, labels)  # Crowds aren't trained on.
    boxes = truth[..., :4] / scale[:, None, None]
    targets = jax.jit(functools.partial(assign, spec.anchors()))(boxes, labels)
    agree = [
        np.asarray(targets.labels[level]) == recorded[f"reader_eval/cls_targets_{level}"]
        for level in spec.levels
    ]
    # The recorded boxes went to original pixels and back in float32, so ties between equal anchors
    # may fall otherwise; nothing else does.
    assert sum(a.size - a.sum() for a in agree) <= 0.001 * sum(a.size for a in agree)


def test_no_boxes_are_all_background():
    targets = assign_128(*padded([], []))
    assert (flat(targets.labels) == BACKGROUND).all()
    assert (flat(targets.box_deltas) == 0).all() and targets.num_positives[0] == 0


def test_no_slots_at_all():
    targets = assign_128(jnp.zeros((2, 0, 4)), jnp.zeros((2, 0), jnp.int32))
    assert (np.asarray(targets.labels[3]) == BACKGROUND).all()


def test_a_degenerate_box_gives_finite_targets():
    targets = assign_128(*padded([[40, 40, 40, 40]], [5]))
    assert np.isfinite(flat(targets.box_deltas)).all()
    assert targets.num_positives[0] == 1  # Forced onto anchor 0, as the reference does.
    assert flat(targets.labels)[0] == 5


def test_more_than_a_hundred_boxes(rng):
    corner = rng.uniform(0, 110, (150, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 18, (150, 2))], 1)
    targets = assign_128(*padded(boxes, rng.integers(0, 90, 150), slots=150))
    found = flat(targets.labels)
    positive = found >= 0
    assert float(targets.num_positives[0]) == positive.sum() >= 100
    # What is trained decodes back to one of the boxes.
    anchors = np.concatenate([level.reshape(-1, 4) for level in ANCHORS.values()])
    decoded = box_ops.decode(
        jnp.asarray(flat(targets.box_deltas)[positive]), jnp.asarray(anchors[positive])
    )
    distance = np.abs(np.asarray(decoded)[:, None] - boxes).max(-1).min(1)
    assert distance.max() < 1e-3


def test_where_boxes_are_ignored_nothing_is_background():
    boxes, labels = padded([[20, 20, 60, 60]], [1])
    ignored = np.zeros((1, 16, 16), bool)  # Cells of 8 px.
    ignored[0, 4, 5] = ignored[0, 15, 15] = True
    plain, found = assign_128(boxes, labels), assign_128(boxes, labels, None, ignored)
    # A cell of P4 has 2×2 of these cells, one of P7 all 16×16.
    cells = {3: [(4, 5), (15, 15)], 4: [(2, 2), (7, 7)], 5: [(1, 1), (3, 3)]}
    cells |= {6: [(0, 0), (1, 1)], 7: [(0, 0)]}
    for level, marked in cells.items():
        expected = np.array(plain.labels[level])
        for y, x in marked:
            cell = expected[0, y, x]
            cell[cell == BACKGROUND] = IGNORE
        np.testing.assert_array_equal(found.labels[level], expected)
        np.testing.assert_array_equal(found.box_deltas[level], plain.box_deltas[level])
    assert found.num_positives == plain.num_positives
    # Matches stay, also in there.
    assert (flat(found.labels) == 1).sum() == float(plain.num_positives[0])


def test_ignored_cells_of_uneven_and_of_finer_levels():
    boxes, labels = padded([], [])
    # 40×72 px: 5×9 cells of P3, 10×18 of P2, 3×5 of P4.
    spec = model_spec("efficientdet-d0", image_size=(40, 72), min_level=2, max_level=4)
    ignored = np.zeros((1, 5, 9), bool)
    ignored[0, 4, 8] = True
    found = assign(spec.anchors(), boxes, labels, None, jnp.asarray(ignored)).labels
    for level, rows, columns in ((2, [8, 9], [16, 17]), (3, [4], [8]), (4, [2], [4])):
        y, x = np.nonzero((found[level][0] == IGNORE).all(-1))
        assert (set(y.tolist()), set(x.tolist())) == (set(rows), set(columns))
        assert len(y) == len(rows) * len(columns)


def test_nothing_ignored_changes_nothing():
    boxes, labels = padded([[20, 20, 60, 60]], [1])
    plain = assign_128(boxes, labels)
    found = assign_128(boxes, labels, None, np.zeros((1, 16, 16), bool))
    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_invalid_images_are_ignored_altogether():
    boxes, labels = padded([[20, 20, 60, 60]], [1])
    boxes, labels = jnp.tile(boxes, (2, 1, 1)), jnp.tile(labels, (2, 1))
    targets = assign_128(boxes, labels, jnp.array([True, False]))
    assert targets.num_positives[0] > 0 and targets.num_positives[1] == 0
    for level in SPEC.levels:
        assert (targets.labels[level][1] == IGNORE).all()
        assert (targets.box_deltas[level][1] == 0).all()
