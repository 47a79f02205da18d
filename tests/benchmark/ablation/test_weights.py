import jax
import numpy as np
import pytest

from effdet_jax.benchmark.ablation.weights import node_weights, weight_history
from effdet_jax.checkpoint import LAST, Checkpoints, Metadata
from effdet_jax.classes import ClassNames
from effdet_jax.model.detector import Detector
from tests.tiny import random_variables, tiny_spec


def cell(*weights):
    return {"P6_td": {"fusion": {"weights": np.array(weights, np.float32)}}}


@pytest.mark.parametrize(
    ("fusion", "weights", "expected"),
    [
        ("fast", (3.0, 1.0), (0.75, 0.25)),
        ("fast", (3.0, -1.0), (1.0, 0.0)),
        ("softmax", (np.log(3.0), 0.0), (0.75, 0.25)),
        ("unbounded", (3.0, -1.0), (3.0, -1.0)),
        # Two channels: 3 / 4 and 1 / 4, of which the mean is a half.
        ("channel_fast", ((3.0, 1.0), (1.0, 3.0)), (0.5, 0.5)),
    ],
)
def test_weights_are_normalised_as_the_model_does(fusion, weights, expected):
    found = node_weights(tiny_spec(fusion=fusion), cell(*weights))
    assert found == {
        "P6_td": {
            "P6_in": pytest.approx(expected[0], abs=1e-4),
            "P7_in": pytest.approx(expected[1], abs=1e-4),
        }
    }


def test_nodes_of_one_input_have_no_share_to_tell():
    spec = tiny_spec(fusion="fast", pyramid="fpn")
    parameters = {
        "P7_out": {"fusion": {"weights": np.ones(1, np.float32)}},
        "P6_out": {"fusion": {"weights": np.ones(2, np.float32)}},
    }
    assert set(node_weights(spec, parameters)) == {"P6_out"}


def test_every_checkpoint_of_a_run_is_read_and_step_0_is_before_them(tmp_path):
    model = Detector(tiny_spec(fusion="fast"), ClassNames.from_names(("a", "b")))
    variables = jax.device_get(random_variables(model))
    fusion = variables["params"]["pyramid"]["cell_0"]["P6_td"]["fusion"]
    checkpoints = Checkpoints(tmp_path / LAST, keep=2)
    for step, weights in ((10, (3.0, 1.0)), (20, (1.0, 3.0))):
        fusion["weights"] = np.array(weights, np.float32)
        metadata = Metadata(model.spec, model.class_names, {}, step=step)
        checkpoints.save(metadata, {"step": np.array(step)}, variables)
    checkpoints.close()
    history = weight_history(str(tmp_path))
    assert list(history) == [0, 10, 20]
    assert set(history[10]) == {f"P{n}_td" for n in (4, 5, 6)} | {f"P{n}_out" for n in range(3, 8)}
    shares = [weights["P6_td"]["P6_in"] for weights in history.values()]
    assert shares == pytest.approx([0.5, 0.75, 0.25], abs=1e-4)
    assert list(history[20]["P5_out"]) == ["P5_in", "P5_td", "P4_out"]
