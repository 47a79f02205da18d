import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from effdet_jax.layers import convolution as layers
from tests.ops.test_convolution import NHWC, assert_same_gradients


@pytest.mark.parametrize("size", [(16, 16), (7, 9)])
@pytest.mark.parametrize(("padding", "of_xla"), [("same", "SAME"), ("symmetric", [(1, 1), (1, 1)])])
def test_stem_convolution_equals_xla(rng, size, padding, of_xla):
    conv = layers.Conv(5, kernel_size=3, stride=2, padding=padding)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)).astype(np.float32))
    variables = conv.init(jax.random.key(0), x)

    def xla(variables, x):
        kernel = variables["params"]["kernel"]
        return lax.conv_general_dilated(x, kernel, (2, 2), of_xla, dimension_numbers=NHWC)

    np.testing.assert_allclose(conv.apply(variables, x), xla(variables, x), atol=1e-5)
    assert_same_gradients(conv.apply, xla, variables, x)


def test_separable_convolution_is_depthwise_then_pointwise_with_bias(rng):
    x = jnp.asarray(rng.normal(size=(1, 6, 6, 4)).astype(np.float32))
    module = layers.SeparableConv(3, initial_bias=2.0)
    variables = module.init(jax.random.key(1), x)
    params = variables["params"]
    depthwise = lax.conv_general_dilated(
        x, params["depthwise"]["kernel"], (1, 1), "SAME", dimension_numbers=NHWC,
        feature_group_count=4,
    )  # fmt: skip
    by_hand = depthwise @ params["pointwise"]["kernel"][0, 0] + 2
    np.testing.assert_allclose(module.apply(variables, x), by_hand, atol=1e-5)


def test_drop_connect_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 2, 3))
    y = np.asarray(layers.drop_connect(x, 0.8, jax.random.key(0)))
    per_example = y.reshape(4000, -1)
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.8)}
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose((per_example[:, 0] > 0).mean(), 0.8, atol=0.02)
