"""Which ground-truth box each anchor learns: best IoU, and no box is left without an anchor."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from effdet_jax.distributed.rows import split_rows
from effdet_jax.ops import boxes as box_ops

UNMATCHED = -1
_NOWHERE = np.iinfo(np.int32).max  # The position that stands for no anchor.


def match(
    boxes: Float[Array, "B G 4"],
    valid: Bool[Array, "B G"],
    anchors: Mapping[int, Float[Array | np.ndarray, "... 4"]],
    *,
    threshold: float = 0.5,
) -> dict[int, Int[Array, "B ..."]]:
    """Index of the ground-truth box of every anchor of every image, -1 where there is none.

    1. An anchor takes the box it overlaps most (the first of equals) from `threshold` up; there is
       no band of ignored anchors below it.
    2. Each box then claims the anchor it overlaps most (the first of equals), however little, even
       if that anchor had chosen another box. Two boxes that claim one anchor: the first box gets it.
    A box that overlaps no anchor claims the first anchor, as in the reference.

    Boxes are taken one at a time, up to the last valid one of the batch: a [G, N] table of overlaps
    would be mostly padding (17 times slower for 15 boxes of 100 slots, and 25 times the memory).
    Levels stay apart, so that each is split over devices the way its feature map is.

    Args:
      boxes: yxyx, pixels.
      valid: False for padding rows, which match nothing.
      anchors: {level: [..., 4]} yxyx, pixels; their order is the levels', then the arrays'.
      threshold: least IoU of step 1.
    """
    shapes = {level: (len(valid), *array.shape[:-1]) for level, array in anchors.items()}
    if valid.shape[1] == 0:
        return {level: jnp.full(shape, UNMATCHED, jnp.int32) for level, shape in shapes.items()}
    # [H, W · A, 4]: an innermost axis as short as A is slow.
    anchors = {
        level: jnp.asarray(array).reshape(len(array), -1, 4) for level, array in anchors.items()
    }
    positions = _positions(anchors)
    slots = jnp.arange(1, valid.shape[1] + 1, dtype=jnp.int32)
    used_slots = jnp.max(jnp.where(valid, slots, 0), initial=0)
    best, chosen, claims = _choose(boxes, valid, anchors, positions, used_slots)
    chosen = {
        level: jnp.where(best[level] >= threshold, chosen[level], UNMATCHED) for level in chosen
    }
    chosen = _grant(chosen, claims, positions, used_slots)
    return {level: chosen[level].reshape(shape) for level, shape in shapes.items()}


def _choose(
    boxes: Float[Array, "B G 4"],
    valid: Bool[Array, "B G"],
    anchors: Mapping[int, Array],
    positions: Mapping[int, Array],
    used_slots: Int[Array, ""],
) -> tuple[dict[int, Array], dict[int, Array], Int[Array, "B G"]]:
    """Step 1: (best IoU of every anchor, its box; the position of the anchor that a box claims)."""

    def take_box(index, state):
        best, chosen, claims = state
        box, is_valid = (lax.dynamic_index_in_dim(x, index, 1, False) for x in (boxes, valid))
        iou = {}
        for level, array in anchors.items():
            overlap = box_ops.iou(_expand(box, array.ndim - 1), array)
            overlap = jnp.where(_expand(is_valid, array.ndim - 1), overlap, -1.0)
            iou[level] = split_rows(overlap)
        claim = jnp.where(is_valid, _first_of_largest(iou, positions), _NOWHERE)
        chosen = {level: jnp.where(iou[level] > best[level], index, chosen[level]) for level in iou}
        best = {level: jnp.maximum(best[level], iou[level]) for level in iou}
        return best, chosen, lax.dynamic_update_index_in_dim(claims, claim, index, axis=1)

    dtype = jnp.result_type(boxes, *anchors.values())
    shapes = {level: (len(valid), *array.shape[:-1]) for level, array in anchors.items()}
    best = {level: split_rows(jnp.zeros(shape, dtype)) for level, shape in shapes.items()}
    chosen = {level: split_rows(jnp.zeros(shape, jnp.int32)) for level, shape in shapes.items()}
    claims = jnp.full(valid.shape, _NOWHERE, jnp.int32)
    return lax.fori_loop(0, used_slots, take_box, (best, chosen, claims))


def _grant(
    chosen: dict[int, Array],
    claims: Int[Array, "B G"],
    positions: Mapping[int, Array],
    used_slots: Int[Array, ""],
) -> dict[int, Array]:
    """Step 2: every box gets the anchor that it claims."""

    def grant_box(step, chosen):
        index = used_slots - 1 - step  # The first box comes last, and keeps what it claims.
        claim = lax.dynamic_index_in_dim(claims, index, 1, False)
        return {
            level: jnp.where(_expand(claim, x.ndim - 1) == positions[level], index, x)
            for level, x in chosen.items()
        }

    return lax.fori_loop(0, used_slots, grant_box, chosen)


def _first_of_largest(iou: Mapping[int, Array], positions: Mapping[int, Array]) -> Int[Array, " B"]:
    """Position of the anchor with the largest IoU, the first of equals."""
    top = _reduce(jnp.max, iou)
    at_top = {
        level: jnp.where(x == _expand(top, x.ndim - 1), positions[level], _NOWHERE)
        for level, x in iou.items()
    }
    return _reduce(jnp.min, at_top)


def _positions(anchors: Mapping[int, Array | np.ndarray]) -> dict[int, Array]:
    """Number of every anchor, counted through all levels."""
    positions, start = {}, 0
    for level, array in anchors.items():
        shape = array.shape[:-1]
        count = int(np.prod(shape))
        positions[level] = jnp.arange(start, start + count, dtype=jnp.int32).reshape(shape)
        start += count
    return positions


def _reduce(reduce: Callable[..., Array], levels: Mapping[int, Array]) -> Array:
    """[B] from {level: [B, …]}: over all anchors of all levels."""
    parts = [reduce(x, axis=tuple(range(1, x.ndim))) for x in levels.values()]
    return reduce(jnp.stack(parts), axis=0)


def _expand(values: Array, axes: int) -> Array:
    """[B, …] → [B, 1 × axes, …], to be broadcast with the anchors of a level."""
    return values.reshape(len(values), *[1] * axes, *values.shape[1:])
