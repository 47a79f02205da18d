"""What the heads should predict: anchors × ground-truth boxes → `Targets` per level."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from effdet_jax.distributed.rows import split_rows
from effdet_jax.ops import boxes as box_ops
from effdet_jax.ops.anchors import IGNORED_LEVEL
from effdet_jax.ops.matching import UNMATCHED, match

BACKGROUND = -1  # An anchor that is no object: all K classes are trained towards 0.
IGNORE = -2  # An anchor that isn't trained at all.


@struct.dataclass
class Targets:
    """Training targets per level.

    Attributes:
      labels: {level: [B, H, W, A]} class of the matched box, `BACKGROUND` or `IGNORE`.
      box_deltas: {level: [B, H, W, A, 4]}, zeros where nothing is matched.
      num_positives: [B] matched anchors per image.
    """

    labels: dict[int, Any]
    box_deltas: dict[int, Any]
    num_positives: Any


def assign(
    anchors: Mapping[int, Float[np.ndarray, "_ _ A 4"]],
    boxes: Float[Array, "B G 4"],
    labels: Int[Array, "B G"],
    valid: Bool[Array, " B"] | None = None,
    ignored: Bool[Array, "B _ _"] | None = None,
    *,
    threshold: float = 0.5,
) -> Targets:
    """Targets of a batch.

    Args:
      anchors: {level: [H, W, A, 4]} yxyx, input pixels.
      boxes: [B, G, 4] yxyx, input pixels; rows with label -1 are padding.
      labels: [B, G] class indices.
      valid: [B] False for images that must not be trained on; all their anchors are `IGNORE`.
      ignored: [B, H, W] cells of `IGNORED_LEVEL`; unmatched anchors whose cell has one of them are
        `IGNORE`, too.
      threshold: least IoU of a match that isn't forced, see `ops.matching.match`.
    """
    if boxes.shape[1] == 0:  # Nothing can be taken from no slots.
        boxes, labels = jnp.zeros((len(boxes), 1, 4)), jnp.full((len(boxes), 1), -1)
    matches = match(boxes, labels >= 0, anchors, threshold=threshold)
    valid = jnp.ones(len(boxes), bool) if valid is None else valid
    take = jax.vmap(lambda rows, index: rows[index])
    target_labels, deltas, num_positives = {}, {}, 0.0
    for level, matched in matches.items():  # [B, H, W, A]
        is_valid = valid[:, None, None, None]
        positive = (matched != UNMATCHED) & is_valid
        index = jnp.maximum(matched, 0)
        classes = jnp.where(positive, take(labels, index), BACKGROUND)
        trained = is_valid
        if ignored is not None:
            cells = _cells_of_level(ignored, level, matched.shape[1:3])
            trained = is_valid & (positive | ~cells[..., None])
        target_labels[level] = split_rows(jnp.where(trained, classes, IGNORE))
        encoded = box_ops.encode(take(boxes, index), jnp.asarray(anchors[level]))
        deltas[level] = split_rows(jnp.where(positive[..., None], encoded, 0.0))
        num_positives += jnp.sum(positive, axis=(1, 2, 3)).astype(jnp.float32)
    return Targets(target_labels, deltas, num_positives)


def _cells_of_level(
    ignored: Bool[Array, "B _ _"], level: int, size: tuple[int, int]
) -> Bool[Array, "B H W"]:
    """Cells of another level, (height, width) = `size`, that hold or lie in a marked one."""
    if level < IGNORED_LEVEL:
        for axis in (1, 2):
            ignored = jnp.repeat(ignored, 2 ** (IGNORED_LEVEL - level), axis)
        return ignored[:, : size[0], : size[1]]
    window = (1, 2 ** (level - IGNORED_LEVEL), 2 ** (level - IGNORED_LEVEL))
    padding = [(0, -side % step) for side, step in zip(ignored.shape, window)]
    return jax.lax.reduce_window(ignored, False, jax.lax.bitwise_or, window, window, padding)
