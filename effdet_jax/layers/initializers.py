"""Initialisers of convolution kernels, as TensorFlow counts their fans.

A depthwise kernel [k, k, C, 1] there has fan_in k·k·C and fan_out k·k, where Flax counts k·k for
both (reference: keras VarianceScaling).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array


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
# RetinaNet's heads: normal, standard deviation 0.01 (arXiv:1708.02002, section 4.1).
hundredth_normal = KernelInit(
    jax.random.normal,
    lambda rng, shape: rng.standard_normal(shape, np.float32),
    lambda shape: 0.01,
)
# A classifier's dense layer [C, K]: uniform in ±1 / √K.
dense_uniform = KernelInit(
    glorot_uniform.by_jax,
    glorot_uniform.by_numpy,
    lambda shape: math.sqrt(1 / (3 * shape[-1])),
)
# Heads: normal cut at two deviations, variance 1 / fan_in after the cut.
truncated_lecun_normal = KernelInit(
    lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype) / _TRUNCATED,
    lambda rng, shape: _truncated(rng, shape) / _TRUNCATED,
    lambda shape: math.sqrt(1 / _fans(shape)[0]),
)
