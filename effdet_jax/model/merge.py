"""How a pyramid node merges its inputs: `MERGES`, by the name that a spec or a node gives."""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPSILON = 1e-4


def normalized_weights(weights: Float[Array, " n"], method: str) -> Float[Array, " n"]:
    """Weight of each input: 'fast' wᵢ⁺ / (Σ w⁺ + 1e-4), 'softmax', or 'unbounded' wᵢ itself.

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
    raise ValueError(f"fusion method '{method}' is unknown")


class WeightedFusion(nn.Module):
    """Sum of equally shaped features, weighted by one learned scalar each.

    arXiv:1911.09070, section 3.3; the scalars are the explicit parameter `weights` [n].
    """

    method: str
    separate: ClassVar[tuple[str, ...]] = ("weights",)  # The reference has a variable for each.

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        weights = self.param("weights", nn.initializers.ones, (len(inputs),), jnp.float32)
        weights = normalized_weights(weights, self.method)
        return sum(x * weight.astype(x.dtype) for x, weight in zip(inputs, weights))


class Sum(nn.Module):
    """Plain sum of equally shaped features."""

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        return sum(inputs[1:], start=inputs[0])


# Name → module maker; the module merges features [B, H, W, C] of one shape.
MERGES: dict[str, Callable[..., nn.Module]] = {
    "fast": functools.partial(WeightedFusion, "fast"),
    "softmax": functools.partial(WeightedFusion, "softmax"),
    "unbounded": functools.partial(WeightedFusion, "unbounded"),
    "sum": Sum,
}
