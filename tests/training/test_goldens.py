"""Three training steps against google/automl's own, from its checkpoint.

Recorded with TensorFlow 2.15.1 on a CPU, D0 at 128×128, one image with twelve boxes and one without
(see `tests.conftest`).
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.convert.detectors import detector_variables, rules_for
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import flatten
from effdet_jax.detection.losses import detection_loss
from effdet_jax.detection.targets import assign
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.spec import EXACT_ASPECTS, model_spec
from effdet_jax.training.optimizer import create_optimizer, learning_rate_schedule
from effdet_jax.training.state import state_of
from effdet_jax.training.step import apply_gradients
from tests.conftest import ROUNDING, shared
from tests.quick import QUICK

# A minute of compiling.
pytestmark = pytest.mark.slow

SPEC = model_spec("efficientdet-d0", image_size=(128, 128), aspects=EXACT_ASPECTS)
WEIGHT_DECAY = 4e-5


@functools.cache
def recorded():
    return json.loads(shared("goldens/automl_d0_128/train.json").read_text())


@functools.cache
def steps():
    """[(loss parts, rate, parameters before, gradients)] of three steps."""
    folder = shared("goldens/automl_d0_128")
    raw, average = (
        detector_variables(read_weights(folder, raw=raw), SPEC) for raw in (True, False)
    )
    with np.load(folder / "ref.npz") as file:
        images = jnp.asarray(file["input"])
    with np.load(folder / "det.npz") as file:
        boxes, classes = file["labels/twelve/gt_boxes"], file["labels/twelve/gt_classes"][:, 0] - 1
    anchors = SPEC.anchors()
    targets = assign(
        anchors,
        jnp.stack([boxes, np.zeros_like(boxes)]).astype(jnp.float32),
        jnp.stack([classes, np.full_like(classes, -1)]).astype(jnp.int32),
    )
    asked = recorded()["params"]
    optimizer = create_optimizer(
        **parameter_masks(Detector(SPEC)),
        momentum=asked["momentum"],
        weight_decay=asked["weight_decay"],
        clip_norm=asked["clip_gradients_norm"],
    )
    rate_of = learning_rate_schedule(
        "cosine",
        peak=asked["adjusted_learning_rate"],
        warmup_init=asked["adjusted_lr_warmup_init"],
        warmup_steps=asked["lr_warmup_step"],
        total_steps=asked["total_steps"],
    )

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(state):
        def loss_of(params):
            outputs, updated = Detector(SPEC).apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loss, parts = detection_loss(outputs, targets, anchors)
            return loss, (parts, updated["batch_stats"])

        grads, (parts, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        rate = jnp.asarray(rate_of(state.step), jnp.float32)
        decay = asked["moving_average_decay"]
        after, _ = apply_gradients(state, grads, batch_stats, optimizer, rate, decay)
        return after, (parts, rate, state.params, grads)

    state, history = state_of(raw, optimizer).replace(ema=average), []
    for _ in recorded()["log"]:
        state, seen = step(state)
        history.append(jax.device_get(seen))
    return history


def test_losses_and_learning_rates_of_three_official_steps():
    assert len(steps()) == len(recorded()["log"]) == 3
    for (parts, rate, params, _), row in zip(steps(), recorded()["log"]):
        kernels = [x for path, x in flatten(params).items() if path.endswith("kernel")]
        penalty = 0.5 * WEIGHT_DECAY * sum(np.sum(np.square(x, dtype=np.float64)) for x in kernels)
        for found, name in (
            (parts["loss/class"], "cls_loss"),
            (parts["loss/box"], "box_loss"),
            (parts["loss/total"], "det_loss"),
            (penalty, "reg_l2_loss"),
        ):
            expected = row[f"trainloss/{name}"]
            np.testing.assert_allclose(found, expected, rtol=1e-4 + ROUNDING, err_msg=name)
        np.testing.assert_allclose(rate, row["lrn_rate"], rtol=1e-6)


def test_gradient_norms_of_every_official_variable():
    """Before clipping, weight decay included. P7 is one pixel here and its batch normalisation sees
    two values: an input noise of 1e-6 moves these norms by 1e-3 (recorded with the reference).
    """
    _, _, params, grads = steps()[0]
    grads, params = flatten({"params": grads}), flatten({"params": params})
    expected = recorded()["unclipped_grad_norm_per_var_step1"]
    found = {}
    for rule in rules_for("automl", SPEC):
        if rule.path not in grads:
            continue
        decay = WEIGHT_DECAY * params[rule.path] if rule.path.endswith("kernel") else 0.0
        for name, part in zip(rule.names, rule.to_source(grads[rule.path] + decay)):
            found[name] = np.linalg.norm(part.astype(np.float64))
    assert found.keys() == expected.keys() and len(found) == 493
    # A bias that a batch normalisation follows has a true gradient of 0, and rounding is recorded.
    for name, norm in expected.items():
        # A fusion weight's gradient sums a whole feature map with both signs.
        noise = 5e-3 if "WSM" in name else 2e-3
        np.testing.assert_allclose(found[name], norm, rtol=noise, atol=1e-4, err_msg=name)
    errors = [abs(found[name] / norm - 1) for name, norm in expected.items() if norm > 1e-2]
    assert len(errors) > 400 and np.median(errors) < 2e-4
    total = np.sqrt(sum(norm**2 for norm in found.values()))
    np.testing.assert_allclose(total, recorded()["unclipped_global_norm_step1"], rtol=2e-4)
