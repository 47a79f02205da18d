"""Max-pooling and nearest up-sampling to an exact size, and the padding of sliding windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from effdet_jax.distributed.rows import spatial_shards, split_rows
from effdet_jax.kernels.platform import by_platform
from effdet_jax.kernels.slices import max_pool_slices

PADDINGS = ("same", "symmetric")


def resample(
    x: Float[Array, "B H W C"], size: tuple[int, int], padding: str = "same", overlap: int = 1
) -> Float[Array, "B h w C"]:
    """`x` brought to `size` (height, width): max-pool where it shrinks, nearest where it grows.

    Args:
      padding, overlap: of the max-pool, see `max_pool`.

    Raises:
      ValueError: one axis shrinks while the other grows, which no EfficientDet of the reference
        allows (it happens when an image side is shorter than the stride of the coarsest level).
    """
    height, width = x.shape[1:3]
    if (height, width) == tuple(size):
        return x
    if height > size[0] and width > size[1]:
        return max_pool(x, size, padding, overlap)
    if height <= size[0] and width <= size[1]:
        return upsample(x, size)
    raise ValueError(
        f"a {height}×{width} feature map can't be resampled to {size[0]}×{size[1]}: one side would "
        "shrink and the other grow. Use an image size whose shorter side is longer than the "
        "stride of the coarsest level (128 px for P7, 256 px for P8)."
    )


def max_pool(
    x: Float[Array, "B H W C"], size: tuple[int, int], padding: str = "same", overlap: int = 1
) -> Float[Array, "B h w C"]:
    """Max over windows wider than the stride by `overlap` (3×3 for stride 2), padded with -inf.

    The stride is (H - 1) // h + 1.

    Args:
      padding: one of `PADDINGS`. Windows that don't overlap are padded on the far side alone.
    """
    strides = [(full - 1) // target + 1 for full, target in zip(x.shape[1:3], size)]
    windows = [stride + overlap for stride in strides]
    edges = window_padding(x.shape[1:3], windows, strides, padding if overlap else "same")

    def as_reduce_window(x):
        pads = ((0, 0), *edges, (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *windows, 1), (1, *strides, 1), pads)

    def as_slices(x):
        return max_pool_slices(x, size, windows, strides, edges)

    if spatial_shards() > 1:
        # XLA's partitioner takes the rows of neighbouring shards from a convolution of `x` with the
        # same window, if there is one, and with them its padding: 0 instead of -inf.
        x = lax.optimization_barrier(x)
    return split_rows(by_platform(x, cpu=as_slices, default=as_reduce_window))


def upsample(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B h w C"]:
    """Nearest neighbour: output row i shows input row floor(i · H / h), not half-pixel centres."""
    return split_rows(nearest(x, tuple(size)))


@functools.partial(jax.jit, static_argnames="size")  # Also a name in programs: see `model.counts`.
def nearest(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B h w C"]:
    """`upsample` on one device."""
    for axis, target in zip((1, 2), size):
        source = x.shape[axis]
        if target % source == 0:
            x = jnp.repeat(x, target // source, axis=axis)
        else:
            ratio = np.float32(source) / np.float32(target)
            rows = np.floor(np.arange(target, dtype=np.float32) * ratio).astype(np.int32)
            x = jnp.take(x, np.minimum(rows, source - 1), axis=axis)
    return x


def window_padding(
    size: tuple[int, ...], windows: list[int], strides: list[int], kind: str = "same"
) -> tuple[tuple[int, int], ...]:
    """Pixels (before, after) per axis, so that ⌈size / stride⌉ windows fit.

    'same' is TensorFlow's: as few as that takes, the odd one after. 'symmetric' is PyTorch's: the
    same on both sides, whatever the size; an odd window of stride 2 over an even size doesn't
    reach the last of them.
    """
    padding = []
    for full, window, stride in zip(size, windows, strides):
        needed = max((-(-full // stride) - 1) * stride + window - full, 0)
        before = (stride + window - 2) // 2 if kind == "symmetric" else needed // 2
        padding.append((before, max(needed - before, 0)))
    return tuple(padding)
