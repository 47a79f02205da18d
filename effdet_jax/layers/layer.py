"""What a layer is to the tools around it: a pure function of its input and its weights."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array


class Layer(nn.Module):
    """A layer whose input training may recompute instead of keep: see `BatchNorm`.

    A subclass defines `first`, and `rest` if it has a second stage.

    Attributes:
      decayed: names of its parameters that weight decay touches.
    """

    decayed: ClassVar[tuple[str, ...]] = ()

    def first(self, channels: int) -> tuple[Callable[..., Any], Sequence[Any]]:
        """(pure function, weights) of the first stage: `function(x, *weights)`.

        The function of two layers with equal attributes is the same object.
        """
        raise NotImplementedError

    def rest(self, y: Array) -> Array:
        """What follows the first stage; nothing by default."""
        return y

    def __call__(self, x: Array) -> Array:
        function, weights = self.first(x.shape[-1])
        return self.rest(function(x, *weights))


# Flax's own layers, whose parameters have no such declaration.
_FLAX_DECAYED = (
    nn.Conv,
    nn.ConvLocal,
    nn.ConvTranspose,
    nn.Dense,
    nn.DenseGeneral,
    nn.Einsum,
)


def decayed_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of a module's own parameters that weight decay touches: kernels of linear layers.

    A module from elsewhere declares others as `decayed = ("codebook",)`.
    """
    if isinstance(module, _FLAX_DECAYED):
        return ("kernel",)
    return getattr(module, "decayed", ())


def separate_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of a module's parameters whose rows count as parameters of their own when clipped."""
    return getattr(module, "separate", ())
