import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.spec import model_spec
from tests.plain_flax import plain_backbone
from tests.quick import QUICK
from tests.tiny import random_variables, tiny_spec


def small(name, **changes):
    return Detector(
        dataclasses.replace(model_spec(name), image_size=(128, 128), head_depth=2, **changes)
    )


@pytest.mark.parametrize(
    "model",
    [
        small("efficientdet-d0", backbone="efficientnet-tiny", pyramid_cells=1),
        small("efficientdet-lite0", pyramid_cells=1),
        small(
            "efficientdet-d0",
            backbone="efficientnet-tiny",
            pyramid_cells=1,
            redundant_bias=False,
            backbone_epsilon=1e-5,
        ),
        pytest.param(
            small(
                "efficientdet-d0",
                backbone="efficientnet-tiny",
                pyramid_cells=1,
                max_level=5,
                objective="segment",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["d0", "lite0", "epsilon", "masks"],
)
def test_a_folded_detector_gives_the_same_without_batch_statistics(model, rng):
    variables = random_variables(model)
    x = rng.normal(size=(2, 128, 128, 3)).astype(np.float32)
    folded_model, folded = fold_batch_norm(model, variables)
    assert set(folded) == {"params"}
    wanted = jax.jit(model.apply, compiler_options=QUICK)(variables, x)
    found = jax.jit(folded_model.apply, compiler_options=QUICK)(folded, x)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, wanted)


@pytest.mark.parametrize("name", ["retinanet-r50", "retinanet-r50-torchvision"])
def test_a_folded_retinanet_gives_the_same(name, rng):
    """Its pyramid's normalisations stay: P6 and P7 take what isn't normalised."""
    model = Detector(tiny_spec(name, backbone="resnet-tiny", pyramid_width=8))
    variables = random_variables(model)
    x = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    folded_model, folded = fold_batch_norm(model, variables)
    left = set(folded.get("batch_stats", {}))
    assert left == ({"pyramid"} if name == "retinanet-r50" else set())
    wanted = jax.jit(model.apply, compiler_options=QUICK)(variables, x)
    found = jax.jit(folded_model.apply, compiler_options=QUICK)(folded, x)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, wanted)


def test_kernels_take_the_gain_and_heads_keep_it():
    model = small("efficientdet-d0", pyramid_cells=1)
    variables = random_variables(model)
    params, stats = variables["params"], variables["batch_stats"]
    folded = fold_batch_norm(model, variables)[1]["params"]
    bn, statistics = params["backbone"]["stem_bn"], stats["backbone"]["stem_bn"]
    gain = np.asarray(bn["scale"]) / np.sqrt(np.asarray(statistics["var"]) + 1e-3)
    kernel = np.asarray(params["backbone"]["stem_conv"]["kernel"])
    np.testing.assert_allclose(folded["backbone"]["stem_conv"]["kernel"], kernel * gain, rtol=1e-5)
    shift = np.asarray(bn["bias"]) - np.asarray(statistics["mean"]) * gain
    np.testing.assert_allclose(folded["backbone"]["stem_bn"]["shift"], shift, rtol=1e-4, atol=1e-6)
    head = folded["class_head"]
    assert set(head["bn_0_P3"]) == {"gain", "shift"} and set(head["conv_0"]["pointwise"]) == {
        "kernel"
    }
    np.testing.assert_array_equal(
        head["conv_0"]["pointwise"]["kernel"], params["class_head"]["conv_0"]["pointwise"]["kernel"]
    )
    assert set(head["predict"]["pointwise"]) == {"kernel", "bias"}  # No normalisation follows.


def test_what_is_folded_is_not_trained_nor_folded_again():
    model = small("efficientdet-lite0", pyramid_cells=1)
    folded_model, folded = fold_batch_norm(model, random_variables(model))
    x = jnp.zeros((1, 128, 128, 3))
    with pytest.raises(ValueError, match="folded detector has no batch statistics"):
        jax.eval_shape(lambda v: folded_model.apply(v, x, train=True), folded)
    with pytest.raises(ValueError, match="folded already"):
        fold_batch_norm(folded_model, folded)


def test_what_cannot_be_folded_runs_as_it_is(monkeypatch, rng):
    """`nn.BatchNorm` of a plain Flax backbone keeps its statistics; the rest is folded."""
    monkeypatch.setitem(BACKBONES, "plain", plain_backbone)
    model = Detector(tiny_spec(backbone="plain"))
    variables = random_variables(model)
    folded_model, folded = fold_batch_norm(model, variables)
    assert set(folded["batch_stats"]) == {"backbone"}
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    wanted, found = jax.jit(model.apply)(variables, x), jax.jit(folded_model.apply)(folded, x)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, wanted)
