"""Convolutions: the plain form of each, and where a CPU takes a faster one from `kernels`."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from effdet_jax.distributed.rows import split_rows
from effdet_jax.kernels import convolution as kernels
from effdet_jax.kernels.platform import by_platform
from effdet_jax.kernels.transpose import transposed_conv as transposed_conv_on_cpu
from effdet_jax.ops.resample import window_padding


@jax.jit  # Calls of equal shapes are traced once.
def pointwise_conv(x: Float[Array, "B H W C"], kernel: Float[Array, "C D"]) -> Array:
    """1×1 convolution: `jnp.dot(x, kernel)`, with the gradient of `kernels`."""
    return kernels.pointwise_conv(x, kernel)


def gated_pointwise_conv(
    x: Float[Array, "B H W C"], gate: Float[Array, "B 1 1 C"], kernel: Float[Array, "C D"]
) -> Float[Array, "B H W D"]:
    """1×1 convolution of x · gate, for inference: the gradient of the CPU form is slow."""

    def gate_input(x, gate, kernel):
        return jnp.dot(x * gate, kernel)

    return by_platform(
        x,
        gate,
        kernel,
        cpu=kernels.gated_pointwise_conv,
        split_cpu=gate_input,
        default=gate_input,
    )


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # Traced once per shape.
def dense_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C D"], stride: int, padding: str = "same"
) -> Float[Array, "B h w D"]:
    """k×k convolution to ⌈size / stride⌉ pixels."""
    edges = _edges(x, kernel, stride, padding)
    y = by_platform(
        x,
        kernel,
        cpu=lambda x, kernel: kernels.dense_conv(x, kernel, stride, edges),
        default=lambda x, kernel: kernels.convolve(x, kernel, stride, edges),
    )
    return split_rows(y)


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # Traced once per shape.
def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int, padding: str = "same"
) -> Float[Array, "B h w C"]:
    """One k×k filter per channel, to ⌈size / stride⌉ pixels."""
    edges = _edges(x, kernel, stride, padding)
    y = by_platform(
        x,
        kernel,
        cpu=lambda x, kernel: kernels.depthwise_conv(x, kernel[:, :, 0], stride, edges),
        # jax's own derivative: the loop over taps would gather the rows.
        split_cpu=lambda x, kernel: kernels.sum_of_slices(x, kernel[:, :, 0], stride, edges),
        default=lambda x, kernel: kernels.convolve(x, kernel, stride, edges, groups=x.shape[-1]),
    )
    return split_rows(y)


def transposed_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C D"]
) -> Float[Array, "B h w D"]:
    """3×3 transposed convolution of stride 2 to twice the size, as Flax's `nn.ConvTranspose`."""
    y = by_platform(
        x,
        kernel,
        cpu=transposed_conv_on_cpu,
        default=lambda x, kernel: lax.conv_transpose(x, kernel, (2, 2), "SAME"),
    )
    return split_rows(y)


def _edges(x: Array, kernel: Array, stride: int, padding: str) -> tuple[tuple[int, int], ...]:
    return window_padding(x.shape[1:3], [kernel.shape[0]] * 2, [stride, stride], padding)
