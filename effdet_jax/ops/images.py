"""uint8 images → what a network sees."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8


def normalize(
    images: UInt8[Array, "B H W 3"],
    content: Int[Array, "B 2"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
    *,
    black_padding: bool = False,
) -> Float[Array, "B H W 3"]:
    """(image - mean) / std, and zeros where the image doesn't reach: padding is the mean colour.

    Args:
      images: RGB.
      content: (height, width) of the part at the top left that is image.
      mean, std: per channel, on the 0–255 scale.
      dtype: of the result.
      black_padding: the padding is normalised like the image.
    """
    mean, std = (jnp.asarray(values, jnp.float32) for values in (mean, std))
    normalized = (images.astype(jnp.float32) - mean) / std
    if black_padding:
        return normalized.astype(dtype)
    rows = jnp.arange(images.shape[1]) < content[:, :1]  # [B, H]
    columns = jnp.arange(images.shape[2]) < content[:, 1:]  # [B, W]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, normalized, 0.0).astype(dtype)


def mirror(images: UInt8[Array, "B H W 3"], content: Int[Array, "B 2"]) -> UInt8[Array, "B H W 3"]:
    """Images mirrored left and right within their content; the padding stays at the right.

    Args:
      content: (height, width) of the part at the top left that is image.
    """
    columns = jnp.arange(images.shape[2])
    width = content[:, 1:]
    source = jnp.where(columns < width, width - 1 - columns, columns)  # [B, W]
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)
