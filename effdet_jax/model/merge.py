"""Weighted feature fusion (arXiv:1911.09070, section 3.3), the weights explicit parameters."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPSILON = 1e-4


def normalized_weights(weights: Float[Array, " n"], method: str) -> Float[Array, " n"]:
    """What each input counts: 'fast' wᵢ⁺ / (Σ w⁺ + 1e-4), 'softmax', or 'unbounded' wᵢ itself.

    Raises:
      ValueError: an unknown method.
    """
    if method == "fast":
        positive = nn.relu(weights)
        return positive / (jnp.sum(positive) + EPSILON)
    if method == "softmax":
        return nn.softmax(weights)
    if method == "unbounded":
        return weights
    raise ValueError(f"fusion method '{method}' has no weights or is unknown")


class Fusion(nn.Module):
    """Sum of equally shaped features, weighted by one learned scalar each; 'sum' has no weights."""

    method: str

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        if self.method == "sum":
            return sum(inputs[1:], start=inputs[0])
        weights = self.param("weights", nn.initializers.ones, (len(inputs),), jnp.float32)
        weights = normalized_weights(weights, self.method)
        return sum(x * weight.astype(x.dtype) for x, weight in zip(inputs, weights))
