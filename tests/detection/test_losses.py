import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.losses import detection_loss, focal_loss, huber_loss, iou_loss
from effdet_jax.detection.targets import IGNORE, Targets
from tests.conftest import ROUNDING, shared
from tests.detection.test_targets import ANCHORS, SPEC, assign_128, official, padded

# Predictions and targets of google/automl's iou_utils_test, with what it expects.
PREDICTED = jnp.array([[4.0, 3.0, 7.0, 5.0], [5.0, 6.0, 10.0, 7.0]])
WANTED = jnp.array([[3.0, 4.0, 6.0, 8.0], [14.0, 14.0, 15.0, 15.0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iou", [0.875, 1.0]),
        ("giou", [1.075, 1.933333]),
        ("diou", [0.9969512, 1.6243094]),
        ("ciou", [0.99931306, 1.6415315]),
    ],
)
def test_iou_losses_equal_the_official_numbers(kind, expected):
    np.testing.assert_allclose(iou_loss(PREDICTED, WANTED, kind=kind), expected, rtol=1e-6)
    assert (iou_loss(PREDICTED, jnp.zeros((2, 4)), kind=kind) == 0).all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_iou_losses_of_degenerate_boxes_have_finite_gradients(kind):
    gradient = jax.grad(lambda box: jnp.sum(iou_loss(box, WANTED, kind=kind)))(jnp.zeros((2, 4)))
    assert np.isfinite(gradient).all()


def test_equal_boxes_have_no_iou_loss():
    for kind in ("iou", "giou", "diou", "ciou"):
        np.testing.assert_allclose(iou_loss(WANTED, WANTED, kind=kind), 0, atol=1e-6)


def test_unknown_iou_loss():
    with pytest.raises(ValueError, match="'eiou' is unknown; there are iou, giou, diou, ciou"):
        iou_loss(PREDICTED, WANTED, kind="eiou")


def test_focal_loss_equals_optax(rng):
    logits = jnp.asarray(rng.normal(0, 5, (40, 7)).astype(np.float32))
    labels = jnp.asarray(rng.integers(-1, 7, 40))
    hot = jax.nn.one_hot(labels, 7)
    found = focal_loss(logits, labels, alpha=0.25, gamma=1.5)
    expected = optax.sigmoid_focal_loss(logits, hot, alpha=0.25, gamma=1.5)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@functools.cache
def compiled_loss(batch: int = 0, **options):
    """`detection_loss` with the official anchors of a batch, or none, as one program.

    Operation by operation, every level's shape would be compiled anew for each of them.
    """
    anchors = official_anchors(batch) if batch else {}
    return jax.jit(lambda outputs, targets: detection_loss(outputs, targets, anchors, **options))


def test_focal_loss_by_hand():
    # p = 0.01 for a background anchor: 0.75 · 0.01^1.5 · -ln 0.99, and for its own class
    # 0.25 · 0.99^1.5 · -ln 0.01.
    logits = jnp.full((1, 2), -np.log(99.0))
    found = focal_loss(logits, jnp.array([0]))[0]
    np.testing.assert_allclose(found[0], 0.25 * 0.99**1.5 * -np.log(0.01), rtol=1e-5)
    np.testing.assert_allclose(found[1], 0.75 * 0.01**1.5 * -np.log(0.99), rtol=1e-4)


def test_class_weights_multiply_the_columns_of_their_classes():
    logits = jnp.array([[1.3, -0.4], [0.2, 2.0], [0.1, 0.1]])
    labels = jnp.array([0, -1, IGNORE])
    plain = focal_loss(logits, labels)
    weighted = focal_loss(logits, labels, class_weights=(3.0, 0.5))
    np.testing.assert_allclose(weighted, plain * np.array([3.0, 0.5]), rtol=1e-6)
    outputs = Outputs({3: logits}, {3: jnp.zeros((3, 4))})
    targets = Targets({3: labels}, {3: jnp.zeros((3, 4))}, jnp.array([1.0]))
    total, parts = detection_loss(outputs, targets, {}, class_weights=(3.0, 0.5))
    np.testing.assert_allclose(total, jnp.sum(weighted) / 2, rtol=1e-6)  # One match, plus one.
    assert parts["loss/class"] == total


def test_label_smoothing_enters_the_cross_entropy_only():
    # α 0.9, γ 0: the official test's case, cross-entropy with {0.1, 0.9} and the hard α.
    logits = jnp.array([[1.3, -0.4]])
    p = 1 / (1 + np.exp(-np.array([1.3, -0.4])))
    smoothed = np.array([0.9, 0.1])
    entropy = -smoothed * np.log(p) - (1 - smoothed) * np.log(1 - p)
    found = focal_loss(logits, jnp.array([0]), alpha=0.9, gamma=0.0, label_smoothing=0.2)
    np.testing.assert_allclose(found[0], entropy * np.array([0.9, 0.1]), rtol=1e-5)


def test_focal_loss_is_finite_for_extreme_logits():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    for label in (0, 1, -1):
        value, gradient = jax.value_and_grad(
            lambda x, label=label: jnp.sum(focal_loss(x, jnp.array([label])))
        )(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_ignored_anchors_have_no_loss_and_no_gradient():
    logits = jnp.ones((2, 3))
    labels = jnp.array([IGNORE, -1])
    gradient = jax.grad(lambda x: jnp.sum(focal_loss(x, labels)))(logits)
    assert (gradient[0] == 0).all() and (gradient[1] > 0).all()


def test_huber_by_hand():
    # δ 0.1: ½·0.05² below; 0.1·0.3 - 0.005 beyond, the same on both sides.
    found = huber_loss(jnp.array([0.05, 0.3, -0.3]), jnp.zeros(3))
    np.testing.assert_allclose(found, [0.00125, 0.025, 0.025], rtol=1e-5)


def test_all_anchors_positive_gives_the_analytic_loss():
    # Fresh D0: every class probability 0.01, boxes predicted 0; every anchor an object of one class
    # with deltas 1, normalised by 10 + 1. google/automl's golden number is 5065.4375.
    counts = {3: 64, 4: 32, 5: 16, 6: 8, 7: 4}
    labels = {level: jnp.zeros((1, side, side, 9), jnp.int32) for level, side in counts.items()}
    outputs = Outputs(
        {level: jnp.full((*x.shape, 90), -np.log(99.0)) for level, x in labels.items()},
        {level: jnp.zeros((*x.shape, 4)) for level, x in labels.items()},
    )
    deltas = {level: jnp.ones((*x.shape, 4)) for level, x in labels.items()}
    _, parts = compiled_loss()(outputs, Targets(labels, deltas, jnp.array([10.0])))
    np.testing.assert_allclose(parts["loss/class"], 5065.4375, rtol=1e-4 + ROUNDING)
    np.testing.assert_allclose(parts["loss/box"], 49104 * 0.095 / 11, rtol=1e-4 + ROUNDING)


@functools.cache
def official_losses():
    folder = shared("goldens/automl_d0_128")
    losses = json.loads((folder / "det.json").read_text())
    with np.load(folder / "ref.npz") as file:
        logits = {level: file[f"cls/p{level}"] for level in SPEC.levels}
        deltas = {level: file[f"box/p{level}"] for level in SPEC.levels}
    split = [
        {level: jnp.asarray(x).reshape(*x.shape[:3], 9, -1) for level, x in maps.items()}
        for maps in (logits, deltas)
    ]
    return losses, Outputs(*split)


def official_targets(names):
    rows = [
        padded(
            official()[f"labels/{name}/gt_boxes"], official()[f"labels/{name}/gt_classes"][:, 0] - 1
        )
        for name in names
    ]
    return assign_128(*(jnp.concatenate(parts) for parts in zip(*rows)))


def official_anchors(batch: int):
    """{level: [B, H, W, A, 4]} as the official IoU loss pairs anchors with predictions.

    It concatenates predictions level by level over the batch and anchors image by image, so with
    more than one image they don't belong together. A box whose sides are all kept doesn't mind
    (IoU ignores shifts), but one with a masked side does.
    """
    images = np.concatenate([level.reshape(-1, 4) for level in ANCHORS.values()] * batch)
    pairs, start = {}, 0
    for level, anchors in ANCHORS.items():
        count = batch * anchors[..., 0].size
        pairs[level] = images[start : start + count].reshape(batch, *anchors.shape)
        start += count
    return pairs


# What the recorded file calls its settings; 'alt' has another α, γ, δ and box weight.
SETTINGS = {"default": {}, "smooth0.1": {"label_smoothing": 0.1}}
OFFICIAL_CASES = [
    f"{path}/{images}/{setting}"
    for path in ("legacy", "tf2")
    for images in ("a", "b", "empty", "c")
    for setting in SETTINGS
]


@pytest.mark.parametrize("case", OFFICIAL_CASES)
def test_equal_to_the_official_losses(case):
    losses, outputs = official_losses()
    path, images, setting = case.split("/")
    targets = official_targets(losses["loss_sets"][images])
    kinds = ["None"] if path == "legacy" or setting != "default" else [
        "None", "iou", "giou", "diou", "ciou"
    ]  # fmt: skip
    for kind in kinds:
        recorded = losses["loss"][case if path == "legacy" else f"{case}/iou={kind}"]
        options = dict(SETTINGS[setting], iou_kind="" if kind == "None" else kind)
        total, parts = compiled_loss(2, **options)(outputs, targets)
        names = ("total", "cls", "box") if path == "legacy" else (
            "det_loss", "cls_loss", "box_loss"
        )  # fmt: skip
        found = [total, parts["loss/class"], parts["loss/box"]]
        np.testing.assert_allclose(found, [recorded[name] for name in names], rtol=2e-6 + ROUNDING)
        if kind != "None":
            np.testing.assert_allclose(parts["loss/iou"], recorded["box_iou_loss"], rtol=1e-5)


@pytest.mark.parametrize("images", ["a", "c"])
def test_equal_to_the_official_gradients(images):
    losses, outputs = official_losses()
    targets = official_targets(losses["loss_sets"][images])
    gradient_of = jax.jit(jax.grad(lambda x: detection_loss(x, targets, ANCHORS)[0]))
    gradient = gradient_of(outputs)
    with np.load(shared("goldens/automl_d0_128/det.npz")) as recorded:
        for level in SPEC.levels:
            for ours, theirs in ((gradient.class_logits, "cls"), (gradient.box_deltas, "box")):
                expected = recorded[f"grad/{images}/{theirs}_p{level}"]
                found = np.asarray(ours[level]).reshape(expected.shape)
                largest = np.abs(expected).max()
                np.testing.assert_allclose(found, expected, atol=1e-5 * largest)


@pytest.mark.parametrize(("key", "smoothing"), [("loss_new", 0.0), ("loss_new_ls01", 0.1)])
def test_equal_to_pytorch(key, smoothing):
    with np.load(shared("goldens/tf_efficientdet_d0/ref_128.npz")) as file:
        recorded = dict(file)

    def levels(name):
        return {
            level: jnp.asarray(recorded[f"{name}_P{level}"].transpose(0, 2, 3, 1)).reshape(
                4, *recorded[f"{name}_P{level}"].shape[2:], 9, -1
            )
            for level in range(3, 8)
        }

    labels = {level: jnp.asarray(recorded[f"target_cls_P{level}"]) for level in range(3, 8)}
    deltas = {
        level: jnp.asarray(recorded[f"target_box_P{level}"]).reshape(*label.shape, 4)
        for level, label in labels.items()
    }
    targets = Targets(labels, deltas, jnp.asarray(recorded["target_num_positives"]))
    outputs = Outputs(levels("eval_class"), levels("eval_box"))
    total, parts = compiled_loss(label_smoothing=smoothing)(outputs, targets)
    found = [total, parts["loss/class"], parts["loss/box"]]
    np.testing.assert_allclose(found, recorded[key], rtol=1e-5 + ROUNDING)


def test_no_objects_in_the_whole_batch_is_finite():
    outputs = Outputs({3: jnp.zeros((2, 2, 2, 9, 3))}, {3: jnp.ones((2, 2, 2, 9, 4))})
    targets = Targets(
        {3: jnp.full((2, 2, 2, 9), -1)}, {3: jnp.zeros((2, 2, 2, 9, 4))}, jnp.zeros(2)
    )
    total, parts = detection_loss(outputs, targets, {})
    # 72 anchors × 3 classes at p = ½, normaliser 1.
    np.testing.assert_allclose(total, 72 * 3 * 0.75 * 0.5**1.5 * np.log(2), rtol=1e-5)
    assert parts["loss/box"] == 0


def test_the_loss_of_bfloat16_outputs_is_float32():
    outputs = Outputs(
        {3: jnp.ones((1, 2, 2, 9, 3), jnp.bfloat16)}, {3: jnp.ones((1, 2, 2, 9, 4), jnp.bfloat16)}
    )
    labels = {3: jnp.zeros((1, 2, 2, 9), jnp.int32)}
    targets = Targets(labels, {3: jnp.full((1, 2, 2, 9, 4), 0.3)}, jnp.ones(1))
    total, parts = detection_loss(outputs, targets, {})
    assert {total.dtype, *(part.dtype for part in parts.values())} == {jnp.dtype(jnp.float32)}
