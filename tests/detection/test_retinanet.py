import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.heads import CLASS_BIAS, Outputs
from effdet_jax.detection.objective import OBJECTIVES
from effdet_jax.detection.retinanet import RetinaNet, TorchvisionRetinaNet
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables, initial_variables
from tests.quick import QUICK
from tests.tiny import tiny_spec

SPEC = tiny_spec("retinanet-r50-torchvision", backbone="resnet-tiny", pyramid_width=16)


def outputs(logit=-9.0):
    anchors = SPEC.anchors()
    logits = {n: jnp.full((1, *a.shape[:3], 2), logit) for n, a in anchors.items()}
    return Outputs(logits, {n: jnp.zeros((1, *a.shape)) for n, a in anchors.items()})


def test_heads_start_from_a_hundredth():
    spec = tiny_spec("retinanet-r50", backbone="resnet-tiny", pyramid_width=64)
    head = initial_variables(Detector(spec))["params"]["class_head"]
    for name in ("conv_0", "predict"):
        assert np.std(head[name]["kernel"]) == pytest.approx(0.01, rel=0.05)
    # A prior of 0.01 (arXiv:1708.02002, section 4.1).
    assert (head["predict"]["bias"] == np.float32(CLASS_BIAS)).all()


def test_torchvisions_heads_normalise_nothing_and_have_biases():
    head = abstract_variables(Detector(SPEC))["params"]["box_head"]
    assert set(head) == {"conv_0", "predict"} and set(head["conv_0"]) == {"kernel", "bias"}


def test_deltas_are_reordered():
    found = TorchvisionRetinaNet(SPEC).outputs(
        class_logits={}, box_deltas={3: jnp.arange(4.0)[None]}
    )
    np.testing.assert_array_equal(found.box_deltas[3], [[1, 0, 3, 2]])


def test_a_side_grows_by_62_at_most():
    raw = outputs()
    raw.box_deltas[3] = raw.box_deltas[3].at[0, 1, 2, 3].set(jnp.array([0, 0, 0.0, 99.0]))
    found = jax.jit(TorchvisionRetinaNet(SPEC).candidates, compiler_options=QUICK)(raw)
    ymin, xmin, ymax, xmax = SPEC.anchors()[3][1, 2, 3]
    # P3 has 8 cells to a row, of 9 anchors each.
    box = np.asarray(found["boxes"])[0, (1 * 8 + 2) * 9 + 3]
    assert box[2] - box[0] == pytest.approx(ymax - ymin)
    assert box[3] - box[1] == pytest.approx((xmax - xmin) * 62.5, rel=1e-5)


def test_objectives_are_entries():
    assert (
        OBJECTIVES["retinanet"] is RetinaNet and OBJECTIVES["torchvision"] is TorchvisionRetinaNet
    )
