"""Each CPU form against the plain form, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.kernels import convolution as kernels
from effdet_jax.ops.resample import window_padding


def assert_agree(rng, fast, plain, *arguments):
    found, pull = jax.vjp(fast, *arguments)
    expected, pull_plain = jax.vjp(plain, *arguments)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=expected.shape).astype(np.float32))
    for gradient, wanted in zip(pull(cotangent), pull_plain(cotangent)):
        np.testing.assert_allclose(gradient, wanted, atol=1e-4)


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(("size", "stride"), [((8, 8), 1), ((7, 10), 2)])
def test_depthwise_and_dense_forms_agree_with_xla(rng, size, stride):
    edges = window_padding(size, [3, 3], [stride, stride])
    x = draw(rng, 2, *size, 6)
    for fast in (kernels.depthwise_conv, kernels.sum_of_slices):
        assert_agree(
            rng,
            lambda x, kernel, fast=fast: fast(x, kernel[:, :, 0], stride, edges),
            lambda x, kernel: kernels.convolve(x, kernel, stride, edges, groups=6),
            x,
            draw(rng, 3, 3, 1, 6),
        )
    assert_agree(
        rng,
        lambda x, kernel: kernels.dense_conv(x, kernel, stride, edges),
        lambda x, kernel: kernels.convolve(x, kernel, stride, edges),
        x,
        draw(rng, 3, 3, 6, 5),
    )


def test_pointwise_forms_agree_with_a_product(rng):
    x, kernel = draw(rng, 2, 4, 5, 6), draw(rng, 6, 3)
    assert_agree(rng, kernels.pointwise_conv, jnp.dot, x, kernel)
    gate = draw(rng, 2, 1, 1, 6)
    found = kernels.gated_pointwise_conv(x, gate, kernel)
    np.testing.assert_allclose(found, jnp.dot(x * gate, kernel), atol=1e-5)
