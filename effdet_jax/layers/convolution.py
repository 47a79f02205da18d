"""Convolutions of the family as modules. Parameters are float32; `dtype` is what a layer computes in."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.initializers import KernelInit, conv_kernel_init, glorot_uniform
from effdet_jax.layers.layer import Layer
from effdet_jax.ops.convolution import (
    dense_conv,
    depthwise_conv,
    pointwise_conv,
    transposed_conv,
)

CONVOLUTIONS = ("separable", "dense")  # What `create_conv` makes.


class Conv(Layer):
    """Dense convolution to ⌈size / stride⌉ pixels.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel.
      stride: of both axes.
      use_bias: whether a bias is added.
      padding: one of `ops.resample.PADDINGS`.
      kernel_init: initialiser of the `[k, k, in, out]` kernel.
      initial_bias: start value of the bias.
      dtype: of the computation.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    use_bias: bool = False
    padding: str = "same"
    kernel_init: KernelInit = conv_kernel_init
    initial_bias: float = 0.0
    dtype: DTypeLike = jnp.float32
    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    @nn.compact
    def first(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        weights = [self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)]
        if self.use_bias:
            init = nn.initializers.constant(self.initial_bias)
            bias = self.param("bias", init, (self.features,), jnp.float32)
            weights.append(bias.astype(self.dtype))
        return _dense(self.kernel_size, self.stride, self.padding), weights


@functools.cache
def _dense(kernel_size: int, stride: int, padding: str) -> Callable[..., Array]:
    """(x, kernel[, bias]) → convolution."""

    def convolve(x, kernel, bias=None):
        x = x.astype(kernel.dtype)
        if kernel_size == 1 and stride == 1:
            y = pointwise_conv(x, kernel[0, 0])
        else:
            y = dense_conv(x, kernel, stride, padding)
        return y if bias is None else y + bias

    return convolve


class DepthwiseConv(Layer):
    """One k×k filter per channel; kernel `[k, k, 1, C]`, no bias."""

    kernel_size: int
    stride: int = 1
    padding: str = "same"
    kernel_init: KernelInit = conv_kernel_init
    dtype: DTypeLike = jnp.float32
    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    @nn.compact
    def first(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        shape = (self.kernel_size, self.kernel_size, 1, channels)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return _depthwise(self.stride, self.padding), [kernel.astype(self.dtype)]


@functools.cache
def _depthwise(stride: int, padding: str) -> Callable[..., Array]:
    """(x, kernel) → depthwise convolution."""
    return lambda x, kernel: depthwise_conv(x.astype(kernel.dtype), kernel, stride, padding)


class SeparableConv(Layer):
    """3×3 depthwise, then 1×1 pointwise; no normalisation, no activation."""

    features: int
    use_bias: bool = True
    kernel_init: KernelInit = glorot_uniform
    initial_bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.depthwise = DepthwiseConv(3, kernel_init=self.kernel_init, dtype=self.dtype)
        self.pointwise = Conv(
            self.features,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            initial_bias=self.initial_bias,
            dtype=self.dtype,
        )

    def first(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        return self.depthwise.first(channels)

    def rest(self, y: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        return self.pointwise(y)


class TransposedConv(Layer):
    """3×3 transposed convolution of stride 2, to twice the size.

    Attributes:
      features: output channels.
      use_bias: whether a bias is added.
      kernel_init: initialiser of the `[3, 3, in, out]` kernel.
      dtype: of the computation.
    """

    features: int
    use_bias: bool = False
    kernel_init: KernelInit = glorot_uniform
    dtype: DTypeLike = jnp.float32
    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    @nn.compact
    def first(self, channels: int) -> tuple[Callable[..., Array], Sequence[Array]]:
        shape = (3, 3, channels, self.features)
        weights = [self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)]
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            weights.append(bias.astype(self.dtype))
        return _transposed, weights


def _transposed(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    y = transposed_conv(x.astype(kernel.dtype), kernel)
    return y if bias is None else y + bias


def create_conv(kind: str, features: int, **attributes: Any) -> Layer:
    """A 3×3 convolution, 'separable' as in EfficientDet or 'dense' as in RetinaNet."""
    if kind == "separable":
        return SeparableConv(features, **attributes)
    return Conv(features, kernel_size=3, **attributes)


def kernel_path(kind: str, name: str) -> str:
    """Path of the last kernel of a `create_conv` called `name`: what a normalisation follows."""
    return f"{name}/pointwise" if kind == "separable" else name


def drop_connect(
    x: Float[Array, "B H W C"], survival_probability: float, key: Array
) -> Float[Array, "B H W C"]:
    """Zeroes whole examples of a residual branch and scales up the others (arXiv:1603.09382)."""
    shape = (x.shape[0], 1, 1, 1)
    keep = jax.random.bernoulli(key, survival_probability, shape)
    return jnp.where(keep, x / survival_probability, 0).astype(x.dtype)


def call(module: nn.Module, *arguments: Any, train: bool, remat: bool) -> Any:
    """`module(*arguments, train=train)`; with `remat` it keeps nothing for the backward pass.

    Its inner values are computed again there. Parameter paths and gradients are the same.
    """
    if not remat:
        return module(*arguments, train=train)
    return nn.remat(lambda module, *inner: module(*inner, train=train))(module, *arguments)
