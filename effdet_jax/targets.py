"""What the heads should predict: anchors × ground-truth boxes → `Targets` per level."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from effdet_jax.ops import boxes as box_ops
from effdet_jax.ops.anchors import anchor_boxes
from effdet_jax.ops.matching import UNMATCHED, match
from effdet_jax.variants import ModelSpec

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


def spec_anchors(spec: ModelSpec) -> dict[int, np.ndarray]:
    """{level: [H, W, A, 4]} anchors of a model at its own image size."""
    return anchor_boxes(
        spec.image_size,
        spec.levels,
        octaves=spec.octaves,
        aspects=spec.aspects,
        scale=spec.anchor_scale,
    )


def assign(
    anchors: Mapping[int, Float[np.ndarray, "_ _ A 4"]],
    boxes: Float[Array, "B G 4"],
    labels: Int[Array, "B G"],
    valid: Bool[Array, " B"] | None = None,
    *,
    threshold: float = 0.5,
) -> Targets:
    """Targets of a batch.

    Args:
      anchors: {level: [H, W, A, 4]} yxyx, input pixels.
      boxes: [B, G, 4] yxyx, input pixels; rows with label -1 are padding.
      labels: [B, G] class indices.
      valid: [B] False for images that must not be trained on; all their anchors are `IGNORE`.
      threshold: least IoU of a match that isn't forced, see `ops.matching.match`.
    """
    flat = jnp.concatenate([jnp.asarray(level).reshape(-1, 4) for level in anchors.values()])

    matches = match(boxes, labels >= 0, flat, threshold=threshold)  # [B, N]
    positive = matches != UNMATCHED
    matches = jnp.maximum(matches, 0)
    target_labels = jnp.take_along_axis(labels, matches, axis=1)
    target_labels = jnp.where(positive, target_labels, BACKGROUND)
    matched_boxes = jnp.take_along_axis(boxes, matches[..., None], axis=1)  # [B, N, 4]
    deltas = jnp.where(positive[..., None], box_ops.encode(matched_boxes, flat), 0.0)
    num_positives = jnp.sum(positive, axis=1).astype(jnp.float32)
    if valid is not None:
        target_labels = jnp.where(valid[:, None], target_labels, IGNORE)
        deltas = jnp.where(valid[:, None, None], deltas, 0.0)
        num_positives = jnp.where(valid, num_positives, 0.0)
    return Targets(
        _split_levels(target_labels, anchors), _split_levels(deltas, anchors), num_positives
    )


def _split_levels(flat: Array, anchors: Mapping[int, np.ndarray]) -> dict[int, Array]:
    """[B, N, …] in anchor order → {level: [B, H, W, A, …]}."""
    shapes = {level: level_anchors.shape[:3] for level, level_anchors in anchors.items()}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = jnp.split(flat, ends[:-1], axis=1)
    return {
        level: part.reshape(part.shape[0], *shape, *part.shape[2:])
        for (level, shape), part in zip(shapes.items(), parts)
    }
