import json

import numpy as np
import pytest

from effdet_jax.convert.pytorch import effdet_rules
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.tensorflow import automl_rules, automl_tf2_rules
from effdet_jax.spec import list_models, model_spec
from tests.conftest import shared
from tests.tiny import tiny_spec

# Variables of the official graphs, BN statistics included (counted in google/automl 6a54c874).
VARIABLES = dict(
    zip(list_models(), [709, 912, 987, 1165, 1354, 1482, 1565, 1565, 1902, 588, 719, 775, 922, 922])
)
VARIABLES["efficientdet-lite4"] = 1068


@pytest.mark.parametrize("rules_of", [automl_rules, automl_tf2_rules])
@pytest.mark.parametrize("name", list_models())
def test_rules_fill_every_variable_once_and_name_as_many_as_the_official_graph(name, rules_of):
    spec = model_spec(name)
    rules = list(rules_of(spec))
    names = [name for rule in rules for name in rule.names]
    # Those of effdet fill every variable once (test_pytorch.py).
    assert sorted(rule.path for rule in rules) == sorted(rule.path for rule in effdet_rules(spec))
    assert len(names) == len(set(names)) == VARIABLES[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Facts of the official checkpoints: D7x has one level more, so its nodes count from six.
        ("efficientdet-d0", "fpn_cells/cell_0/fnode5/resample_0_2_10/conv2d/kernel"),
        ("efficientdet-d7x", "fpn_cells/cell_0/fnode6/resample_0_2_12/conv2d/kernel"),
        ("efficientdet-d7x", "fpn_cells/cell_7/fnode9/op_after_combine15/conv/bias"),
        ("efficientdet-d1", "efficientnet-b1/blocks_1/conv2d/kernel"),
        ("efficientdet-d7x", "efficientnet-b7/blocks_54/tpu_batch_normalization_2/gamma"),
        ("efficientdet-d7x", "class_net/class-4-bn-8/moving_variance"),
    ],
)
def test_names_of_official_checkpoints(name, expected):
    assert expected in {n for rule in automl_rules(model_spec(name)) for n in rule.names}


def test_names_and_shapes_of_official_tf2_files():
    recorded = json.loads(shared("goldens/automl_d0_128/tf2/tf2.json").read_text())
    keys = {key for key, _ in recorded["object_ckpt_keys"]} - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    spec = model_spec("efficientdet-d0")
    names = {n for rule in automl_tf2_rules(spec) for n in rule.names}
    assert {f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in names} == keys
    keras = {key.split("/", 1)[1].removesuffix(":0") for key, _ in recorded["h5_keys"]}
    assert {n for rule in automl_rules(spec) for n in rule.names} == keras


def test_weights_per_channel_are_a_vector_for_each_input():
    rules = {rule.path: rule for rule in automl_rules(tiny_spec(fusion="channel_fast"))}
    rule = rules["params/pyramid/cell_0/P4_out/fusion/weights"]
    assert rule.names == tuple(f"fpn_cells/cell_0/fnode4/WSM{end}" for end in ("", "_1", "_2"))
    vectors = [np.arange(3.0), np.arange(3.0) + 5, np.arange(3.0) + 7]
    np.testing.assert_array_equal(rule.from_source(vectors), [[0, 1, 2], [5, 6, 7], [7, 8, 9]])


@pytest.mark.parametrize(
    "changes",
    [{"pyramid": "panet"}, {"fusion": "unbounded"}, {"laterals": "level"}, {"conv": "dense"}],
)
def test_pyramids_that_automl_has_not_are_refused(changes):
    with pytest.raises(ConversionError, match="google/automl's checkpoints are of bifpn with fast"):
        list(automl_rules(tiny_spec(**changes)))
