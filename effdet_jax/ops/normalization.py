"""Batch normalisation and activations as plain functions.

Statistics are computed in float32 whatever a layer computes in (in float64 where that is float64,
as in tests).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swish": nn.swish,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "leaky_relu": nn.leaky_relu,  # 0.01·x below 0.
    "": lambda x: x,
}

NORMALIZATION_SCOPE = "normalize"  # Of its operations in a traced program: see `model.counts`.


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of a `ModelSpec`; '' is the identity.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(filter(None, ACTIVATIONS))
        raise ValueError(f"activation '{name}' is unknown; there are {known}")
    return ACTIVATIONS[name]


def normalize(
    x: Float[Array, "*B C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    mean: Float[Array, " C"],
    var: Float[Array, " C"],
    epsilon: float,
    act: str,
) -> Float[Array, "*B C"]:
    """act((x - mean) · scale / sqrt(var + ε) + bias), computed in float32 at least."""
    wide = x.astype(np.promote_types(x.dtype, jnp.float32))
    with jax.named_scope(NORMALIZATION_SCOPE):
        z = (wide - mean) * (scale * lax.rsqrt(var + epsilon)) + bias
    return activation(act)(z).astype(x.dtype)


@jax.jit  # Calls of equal shapes are traced once.
def batch_statistics(x: Float[Array, "*B C"], near: Float[Array, " C"]) -> tuple[Array, Array]:
    """(mean, biased variance) of each channel; no gradient flows through them.

    `kernels.recompute.normalize_then` adds their part of the gradient.

    Both come from one pass over `x`, and from one all-reduce where it is spread over devices: the
    variance is the mean square distance from `near`, a value not far from the mean (the running
    mean), less the square of the mean's own distance from `near`.
    """
    axes = tuple(range(x.ndim - 1))
    wide = lax.stop_gradient(x).astype(np.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, axes)
    var = jnp.mean(jnp.square(wide - near), axes) - jnp.square(mean - near)
    return mean, jnp.maximum(var, 0.0)  # Rounding makes it slightly negative for equal values.
