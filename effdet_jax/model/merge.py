"""How a pyramid node merges its inputs: `MERGES`, by the name that a spec or a node gives."""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPSILON = 1e-4


def normalized_weights(weights: Float[Array, "n ..."], method: str) -> Float[Array, "n ..."]:
    """Weight of each input: 'fast' wᵢ⁺ / (Σ w⁺ + 1e-4), 'softmax', or 'unbounded' wᵢ itself.

    With one weight per input and channel, each channel is normalised by itself.

    Raises:
      ValueError: an unknown method.
    """
    if method == "fast":
        positive = nn.relu(weights)
        return positive / (jnp.sum(positive, axis=0) + EPSILON)
    if method == "softmax":
        return nn.softmax(weights, axis=0)
    if method == "unbounded":
        return weights
    raise ValueError(f"fusion method '{method}' is unknown")


class WeightedFusion(nn.Module):
    """Sum of equally shaped features, weighted by one learned scalar, or one per channel, each.

    arXiv:1911.09070, section 3.3; the explicit parameter `weights` is [n], or [n, C]. A single input
    is weighted, too: by w⁺ / (w⁺ + 1e-4), as the released weights have it.
    """

    method: str
    per_channel: bool = False
    separate: ClassVar[tuple[str, ...]] = ("weights",)  # The reference has a variable per input.

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        shape = (len(inputs), *(inputs[0].shape[-1:] if self.per_channel else ()))
        weights = self.param("weights", nn.initializers.ones, shape, jnp.float32)
        weights = normalized_weights(weights, self.method)
        return sum(x * weight.astype(x.dtype) for x, weight in zip(inputs, weights))


class Sum(nn.Module):
    """Plain sum of equally shaped features."""

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        return sum(inputs[1:], start=inputs[0])


class Attention(nn.Module):
    """Global attention of NAS-FPN (arXiv:1904.07392): a + b · σ(max of a over the image).

    a is the first input, the coarser one in NAS-FPN, and b the second; further ones are added.
    """

    @nn.compact
    def __call__(self, inputs: Sequence[Float[Array, "B H W C"]]) -> Float[Array, "B H W C"]:
        gating, *gated = inputs
        # Picked, not reduced: the gradient of a maximum looks for the value that equals it, and where
        # XLA computes the values anew, rounded otherwise, finds none and divides by their number.
        pixels = gating.reshape(gating.shape[0], -1, gating.shape[-1])
        largest = jnp.argmax(pixels, axis=1, keepdims=True)
        gate = nn.sigmoid(jnp.take_along_axis(pixels, largest, axis=1))[:, :, None]
        return sum([x * gate for x in gated[:1]] + gated[1:], start=gating)


# Name → module maker; the module merges features [B, H, W, C] of one shape.
MERGES: dict[str, Callable[..., nn.Module]] = {
    "fast": functools.partial(WeightedFusion, "fast"),
    "softmax": functools.partial(WeightedFusion, "softmax"),
    "unbounded": functools.partial(WeightedFusion, "unbounded"),
    "channel_fast": functools.partial(WeightedFusion, "fast", per_channel=True),
    "channel_softmax": functools.partial(WeightedFusion, "softmax", per_channel=True),
    "sum": Sum,
    "attention": Attention,
}
