"""Convolutions of the family as modules, and their initialisers.

Parameters are float32; `dtype` is what a layer computes in.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.layers.batch_norm import Normalized, consume
from effdet_jax.ops.convolution import dense_conv, depthwise_conv, pointwise_conv


@dataclasses.dataclass(frozen=True)
class KernelInit:
    """Initialiser of kernels `[k, k, in, out]`: by jax where Flax calls it, by numpy in `draw`.

    Attributes:
      by_jax: (key, shape, dtype) → values of mean 0 and variance 1.
      by_numpy: (generator, shape) → other values of the same distribution.
      deviation: standard deviation of the kernel's values from its shape.
    """

    by_jax: Callable[..., Array]
    by_numpy: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    deviation: Callable[[tuple[int, ...]], float]

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return self.deviation(shape) * self.by_jax(key, shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Float32 values of the same distribution."""
        return (self.deviation(shape) * self.by_numpy(rng, shape)).astype(np.float32)


# As TensorFlow counts fans: a depthwise kernel [k, k, C, 1] there has fan_in k·k·C and fan_out k·k,
# where Flax would count k·k for both (reference: keras VarianceScaling).


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width, inputs, outputs = shape
    if inputs == 1:  # Depthwise, [k, k, 1, C].
        return height * width * outputs, height * width
    return height * width * inputs, height * width * outputs


def _truncated(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of a normal distribution cut at ±2, whose standard deviation is `_TRUNCATED`."""
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(outside.sum(), np.float32)
    return values


_TRUNCATED = 0.87962566103423978
_SIDE = math.sqrt(3)  # Of a uniform distribution of variance 1.

# Backbone: normal, variance 2 / fan_out.
conv_kernel_init = KernelInit(
    jax.random.normal,
    lambda rng, shape: rng.standard_normal(shape, np.float32),
    lambda shape: math.sqrt(2 / _fans(shape)[1]),
)
# Pyramid: uniform, variance 2 / (fan_in + fan_out).
glorot_uniform = KernelInit(
    lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -_SIDE, _SIDE),
    lambda rng, shape: rng.uniform(-_SIDE, _SIDE, shape),
    lambda shape: math.sqrt(2 / sum(_fans(shape))),
)
# Heads: normal cut at two deviations, variance 1 / fan_in after the cut.
truncated_lecun_normal = KernelInit(
    lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype) / _TRUNCATED,
    lambda rng, shape: _truncated(rng, shape) / _TRUNCATED,
    lambda shape: math.sqrt(1 / _fans(shape)[0]),
)


class Conv(nn.Module):
    """Dense convolution to ⌈size / stride⌉ pixels.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel.
      stride: of both axes.
      use_bias: whether a bias is added.
      padding: one of `ops.resample.PADDINGS`.
      kernel_init: initialiser of the `[k, k, in, out]` kernel.
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

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel_size == 1 and self.stride == 1:
            y = pointwise_conv(x, kernel[0, 0])
        else:
            y = dense_conv(x, kernel, self.stride, self.padding)
        if self.use_bias:
            init = nn.initializers.constant(self.initial_bias)
            y += self.param("bias", init, (self.features,), jnp.float32).astype(y.dtype)
        return y


class PointwiseWeights(nn.Module):
    """Parameters of a 1×1 convolution, under the names that `Conv` gives them."""

    inputs: int
    features: int
    use_bias: bool = False
    kernel_init: KernelInit = conv_kernel_init
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        """(kernel [C, D], bias [D] or None)."""
        shape = (1, 1, self.inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)[0, 0]
        if not self.use_bias:
            return kernel.astype(self.dtype), None
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class DepthwiseConv(nn.Module):
    """One k×k filter per channel; kernel `[k, k, 1, C]`, no bias."""

    kernel_size: int
    stride: int = 1
    padding: str = "same"
    kernel_init: KernelInit = conv_kernel_init
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"] | Normalized) -> Float[Array, "B h w C"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        kernel = kernel.astype(self.dtype)
        return consume(_depthwise(self.stride, self.padding), x, kernel)


@functools.cache
def _depthwise(stride: int, padding: str) -> Callable[[Array, Array], Array]:
    return lambda x, kernel: depthwise_conv(x.astype(kernel.dtype), kernel, stride, padding)


class SeparableConv(nn.Module):
    """3×3 depthwise, then 1×1 pointwise; no normalisation, no activation."""

    features: int
    use_bias: bool = True
    kernel_init: KernelInit = glorot_uniform
    initial_bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"] | Normalized) -> Float[Array, "B H W D"]:
        x = DepthwiseConv(3, kernel_init=self.kernel_init, dtype=self.dtype, name="depthwise")(x)
        return Conv(
            self.features,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            initial_bias=self.initial_bias,
            dtype=self.dtype,
            name="pointwise",
        )(x)


def drop_connect(
    x: Float[Array, "B H W C"], survival_probability: float, key: Array
) -> Float[Array, "B H W C"]:
    """Zeroes whole examples of a residual branch and scales up the others (arXiv:1603.09382)."""
    shape = (x.shape[0], 1, 1, 1)
    keep = jax.random.bernoulli(key, survival_probability, shape)
    return jnp.where(keep, x / survival_probability, 0).astype(x.dtype)


def run(module: nn.Module, *arrays: Any, train: bool, remat: bool) -> Any:
    """`module(*arrays, train=train)`; `remat` keeps nothing of it for the backward pass.

    Its inner values are computed again there. Parameter paths and gradients are the same.
    """
    if not remat:
        return module(*arrays, train=train)
    return nn.remat(lambda module, *arrays: module(*arrays, train=train))(module, *arrays)
