import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from effdet_jax.ops import convolution

NHWC = ("NHWC", "HWIO", "NHWC")


def assert_same_gradients(ours, theirs, *arguments):
    """Of a scalar of two functions' results, with respect to both arguments."""

    def gradients(function):
        return jax.grad(lambda *args: jnp.sum(jnp.sin(function(*args))), (0, 1))(*arguments)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients(ours), gradients(theirs)
    )


def grouped(x, kernel, stride, padding="same"):
    """XLA's own grouped convolution, the form used on TPU and GPU."""
    if padding == "symmetric":  # As PyTorch: half the kernel on every side.
        padding = [(len(kernel) // 2,) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
    )  # fmt: skip


@pytest.mark.parametrize("size", [(16, 16), (7, 10), (1, 1), (2, 5)])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"),
    [(3, 1, "same"), (3, 2, "same"), (5, 1, "same"), (5, 2, "same")]
    + [(3, 2, "symmetric"), (5, 2, "symmetric")],
)
def test_depthwise_forms_agree_in_value_and_gradient(rng, size, kernel_size, stride, padding):
    x = jnp.asarray(rng.normal(size=(2, *size, 6)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 1, 6)).astype(np.float32))
    ours, pullback = jax.vjp(
        lambda x, k: convolution.depthwise_conv(x, k, stride, padding), x, kernel
    )
    expected, pullback_of_xla = jax.vjp(lambda x, k: grouped(x, k, stride, padding), x, kernel)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=expected.shape).astype(np.float32))
    for found, wanted in zip(pullback(cotangent), pullback_of_xla(cotangent)):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_depthwise_keeps_bfloat16(rng):
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 4))).astype(jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 4))).astype(jnp.bfloat16)
    y, pullback = jax.vjp(lambda x, k: convolution.depthwise_conv(x, k, 1), x, kernel)
    assert {a.dtype for a in (y, *pullback(y))} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3)])
def test_pointwise_gradients_equal_autodiff(rng, inputs, outputs):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, inputs)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(inputs, outputs)).astype(np.float32))
    assert_same_gradients(convolution.pointwise_conv, jnp.dot, x, kernel)


def test_a_gate_multiplies_the_input_of_a_pointwise_convolution(rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)).astype(np.float32))
    gate = jnp.asarray(rng.uniform(size=(2, 1, 1, 3)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(3, 8)).astype(np.float32))
    found = convolution.gated_pointwise_conv(x, gate, kernel)
    np.testing.assert_allclose(found, jnp.dot(x * gate, kernel), atol=1e-6)
