import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.model.detector import Detector
from effdet_jax.spec import model_spec
from tests.quick import QUICK
from tests.tiny import random_variables


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
    ],
    ids=["d0", "lite0", "epsilon"],
)
def test_a_frozen_detector_gives_the_same_without_batch_statistics(model, rng):
    variables = random_variables(model)
    x = rng.normal(size=(2, 128, 128, 3)).astype(np.float32)
    frozen_model, frozen = fold_batch_norm(model, variables)
    assert set(frozen) == {"params"}
    wanted = jax.jit(model.apply, compiler_options=QUICK)(variables, x)
    found = jax.jit(frozen_model.apply, compiler_options=QUICK)(frozen, x)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, wanted)


def test_kernels_take_the_gain_and_heads_keep_it():
    model = small("efficientdet-d0", pyramid_cells=1)
    variables = random_variables(model)
    params, stats = variables["params"], variables["batch_stats"]
    frozen = fold_batch_norm(model, variables)[1]["params"]
    bn, statistics = params["backbone"]["stem_bn"], stats["backbone"]["stem_bn"]
    gain = np.asarray(bn["scale"]) / np.sqrt(np.asarray(statistics["var"]) + 1e-3)
    kernel = np.asarray(params["backbone"]["stem_conv"]["kernel"])
    np.testing.assert_allclose(frozen["backbone"]["stem_conv"]["kernel"], kernel * gain, rtol=1e-5)
    shift = np.asarray(bn["bias"]) - np.asarray(statistics["mean"]) * gain
    np.testing.assert_allclose(frozen["backbone"]["stem_bn"]["shift"], shift, rtol=1e-4, atol=1e-6)
    head = frozen["class_head"]
    assert set(head["bn_0_P3"]) == {"gain", "shift"} and set(head["conv_0"]["pointwise"]) == {
        "kernel"
    }
    np.testing.assert_array_equal(
        head["conv_0"]["pointwise"]["kernel"], params["class_head"]["conv_0"]["pointwise"]["kernel"]
    )
    assert set(head["predict"]["pointwise"]) == {"kernel", "bias"}  # No normalisation follows.


def test_what_is_frozen_is_not_trained_nor_frozen_again():
    model = small("efficientdet-lite0", pyramid_cells=1)
    frozen_model, frozen = fold_batch_norm(model, random_variables(model))
    x = jnp.zeros((1, 128, 128, 3))
    with pytest.raises(ValueError, match="frozen detector has no batch statistics"):
        jax.eval_shape(lambda v: frozen_model.apply(v, x, train=True), frozen)
    with pytest.raises(ValueError, match="frozen already"):
        fold_batch_norm(frozen_model, frozen)
