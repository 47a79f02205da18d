import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from effdet_jax.convert.detectors import (
    backbone_variables,
    detector_variables,
    fresh_class_head,
    guess_spec,
    rules_for,
)
from effdet_jax.convert.readers import Weights, read_weights
from effdet_jax.convert.rules import (
    ConversionError,
    abstract_shapes,
    flatten,
    to_tensors,
    unflatten,
)
from effdet_jax.model.efficientnet import block_specs, stem_features
from effdet_jax.spec import PYTORCH, list_models, model_spec
from tests.conftest import shared
from tests.convert.test_tensorbundle import write_bundle


def blank(spec):
    """Variables of the right shapes that take no memory."""
    shapes = abstract_shapes(spec)
    return unflatten({path: np.broadcast_to(np.float32(0), x.shape) for path, x in shapes.items()})


def weights_of(spec, kind="effdet", variables=None):
    return Weights("w", kind, to_tensors(variables or blank(spec), rules_for(kind, spec)), ())


def outline(spec, kind):
    """Weights of the right names, of which only the telling ones have their shape."""
    last = len(block_specs(spec.backbone)) - 1
    telling = {
        "params/backbone/stem_conv/kernel": (3, 3, 3, stem_features(spec.backbone)),
        f"params/backbone/block_{last}/project_conv/kernel": (
            1, 1, 9, block_specs(spec.backbone)[-1].out_features,
        ),
        "params/class_head/conv_0/pointwise/kernel": (1, 1, 9, spec.pyramid_width),
        "params/class_head/predict/pointwise/bias": (9 * spec.num_classes,),
    }  # fmt: skip
    tensors = {}
    for rule in rules_for(kind, spec):
        array = np.broadcast_to(np.float32(0), telling.get(rule.path, (2,) * len(rule.names)))
        arrays = rule.to_source(array) if rule.path in telling else [array] * len(rule.names)
        tensors |= zip(rule.names, arrays)
    return Weights("w", kind, tensors, ())


@pytest.mark.parametrize("kind", ["effdet", "automl", "automl-tf2"])
@pytest.mark.parametrize(
    "name", sorted(set(list_models()) - {"efficientdet-d6", "efficientdet-d7"})
)
def test_the_model_is_found_from_its_weights(name, kind):
    spec = model_spec(name, num_classes=7)
    assert guess_spec(outline(spec, kind)) == spec


def test_models_of_the_same_weights_must_be_named():
    weights = outline(model_spec("efficientdet-d7"), "effdet")
    with pytest.raises(ConversionError, match="fits efficientdet-d6, efficientdet-d7, which"):
        guess_spec(weights)
    assert guess_spec(weights, "efficientdet-d7").anchor_scale == 5.0


def test_pytorch_padding_is_told_by_missing_biases():
    spec = model_spec("efficientdet-d1", **PYTORCH)
    assert guess_spec(outline(spec, "effdet")) == spec


def test_weights_of_another_architecture_name_the_closest():
    weights = weights_of(model_spec("efficientdet-d1"))
    del weights.tensors["class_net.conv_rep.0.conv_dw.weight"]
    spec = guess_spec(weights)
    with pytest.raises(ConversionError, match=rf"'w' isn't {spec.name}: \d+ of \d+ tensors don't"):
        detector_variables(weights, spec)
    with pytest.raises(ConversionError, match=r"isn't efficientdet-d2 \(it looks like \S+-d1\): "):
        weights = weights_of(model_spec("efficientdet-d1"))
        detector_variables(weights, guess_spec(weights, "efficientdet-d2"))


@pytest.mark.parametrize("kind", ["effdet", "automl", "automl-tf2", "zylo117"])
def test_another_width_and_depth_are_measured(kind):
    changes = {"pyramid_width": 72, "pyramid_cells": 5, "head_depth": 2}
    spec = model_spec("efficientdet-d0", num_classes=2, **changes)
    weights = weights_of(spec, kind)
    assert guess_spec(weights) == spec
    assert detector_variables(weights, guess_spec(weights, "efficientdet-d0"))


@pytest.mark.parametrize(
    ("architecture", "name", "padding", "epsilon"),
    [
        ("", "", "symmetric", 1e-5),
        ("tf_efficientdet_d0", "", "same", 1e-3),
        ("efficientdet_d0", "", "symmetric", 1e-5),
        ("tf_efficientdet_d0", "efficientdet_d0", "symmetric", 1e-5),
        ("efficientdet_d0", "efficientdet-d0", "same", 1e-3),
    ],
)
def test_the_name_settles_padding_before_the_biases_do(architecture, name, padding, epsilon):
    weights = weights_of(model_spec("efficientdet-d0", redundant_bias=False))
    weights = dataclasses.replace(weights, architecture=architecture)
    spec = guess_spec(weights, name)
    assert (spec.padding, spec.backbone_epsilon) == (padding, epsilon)
    assert not spec.redundant_bias and detector_variables(weights, spec)


def test_redundant_biases_of_a_symmetric_model():
    weights = weights_of(model_spec("efficientdet-d0"))
    spec = guess_spec(dataclasses.replace(weights, architecture="efficientdet_d0"))
    assert (spec.padding, spec.redundant_bias) == ("symmetric", True)


def test_a_missing_class_head_is_named():
    weights = outline(model_spec("efficientdet-d0"), "effdet")
    del weights.tensors["class_net.predict.conv_pw.bias"]
    with pytest.raises(ConversionError, match="'class_net.predict.conv_pw.bias' is missing"):
        guess_spec(weights)


@pytest.mark.parametrize("kind", ["timm", "efficientnet", "lukemelas", "lukemelas-zylo117"])
def test_a_backbone_fills_the_backbone_of_any_model(kind, rng):
    spec = model_spec("efficientdet-lite0", num_classes=4)
    given = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in abstract_shapes(spec).items()
        if "/backbone/" in path
    }
    weights = Weights("w", kind, to_tensors(unflatten(given), rules_for(kind, spec)), ())
    found = flatten(backbone_variables(weights, spec))
    assert found.keys() == given.keys()
    assert all((found[path] == given[path]).all() for path in given)
    with pytest.raises(ConversionError, match="'w' isn't efficientnet-b0: "):
        backbone_variables(weights, model_spec("efficientdet-d0"))
    with pytest.raises(ConversionError, match="a backbone alone.*--config.init=w"):
        guess_spec(weights)


def test_a_fresh_class_head_starts_as_the_reference_starts():
    spec = model_spec("efficientdet-d0", num_classes=3)
    old = blank(model_spec("efficientdet-d0"))
    flat = flatten(fresh_class_head(old, spec))
    assert {path: x.shape for path, x in flat.items()} == {
        path: x.shape for path, x in abstract_shapes(spec).items()
    }
    head = "params/class_head/predict"
    # Probability 0.01: -log(99).
    np.testing.assert_allclose(flat[f"{head}/pointwise/bias"], -4.59512, rtol=1e-5)
    np.testing.assert_allclose(flat[f"{head}/pointwise/kernel"].std(), (1 / 64) ** 0.5, rtol=0.1)


@pytest.mark.slow
def test_a_tf2_object_checkpoint_that_tensorflow_wrote(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="needs tensorflow")
    spec = model_spec("efficientdet-lite0", num_classes=2)
    variables = unflatten(
        {
            path: np.random.default_rng(len(path)).normal(size=leaf.shape).astype(np.float32)
            for path, leaf in abstract_shapes(spec).items()
        }
    )
    tree = traverse_util.unflatten_dict(
        to_tensors(variables, rules_for("automl-tf2", spec)), sep="/"
    )

    def trackable(node):
        if isinstance(node, np.ndarray):
            return tf.Variable(node)
        return tf.train.Checkpoint(**{name: trackable(child) for name, child in node.items()})

    prefix = trackable(tree).save(str(tmp_path / "ckpt"))
    for path in (prefix, tmp_path):
        weights = read_weights(path)
        assert guess_spec(weights) == spec
        found = detector_variables(weights, spec)
        jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_a_tf2_checkpoint_of_the_official_keys_and_shapes(tmp_path):
    recorded = json.loads(shared("goldens/automl_d0_128/tf2/tf2.json").read_text())
    official = read_weights(shared("goldens/automl_d0_128"))
    spec = guess_spec(official)
    variables = detector_variables(official, spec)
    tensors = to_tensors(variables, rules_for("automl-tf2", spec))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert {(name + suffix, array.shape) for name, array in tensors.items()} == {
        (key, tuple(shape)) for key, shape in recorded["object_ckpt_keys"][1:]
    }
    write_bundle(tmp_path / "ckpt-1", {name + suffix: x for name, x in tensors.items()})
    again = read_weights(tmp_path / "ckpt-1")
    assert guess_spec(again) == spec
    jax.tree.map(np.testing.assert_array_equal, detector_variables(again, spec), variables)


def test_models_with_quad_fpn_are_known_by_name():
    q0 = model_spec("efficientdet-d0", pyramid="qufpn", **PYTORCH)
    q2 = model_spec("efficientdet-d2", pyramid="qufpn", pyramid_cells=4, **PYTORCH)
    for name, spec in (("efficientdet_q0", q0), ("efficientdet_q2", q2)):
        weights = outline(spec, "effdet")
        assert guess_spec(weights, name) == spec
        assert guess_spec(dataclasses.replace(weights, architecture=name)) == spec


@pytest.mark.parametrize(
    "changes",
    [{"pyramid": "qufpn"}, {"pyramid": "panet", "fusion": "sum", "pyramid_cells": 2}],
)
def test_another_pyramid_is_told_by_its_nodes(changes):
    spec = model_spec("efficientdet-d0", **PYTORCH, **changes)
    assert guess_spec(weights_of(spec)) == spec
