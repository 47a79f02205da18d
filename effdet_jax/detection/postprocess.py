"""Raw outputs → `Detections`: top-k, decode, non-maximum suppression, back to image pixels."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from effdet_jax.detection.heads import Outputs
from effdet_jax.ops import boxes as box_ops
from effdet_jax.ops.nms import hard_nms, soft_nms, top_k_pairs, top_k_pairs_of_each

NMS_METHODS = ("hard", "gaussian")


@struct.dataclass
class Detections:
    """What was found, best first; `detections[i]` is that of image i.

    Attributes:
      boxes: [..., M, 4] yxyx, pixels.
      scores: [..., M] in [0, 1]; 0 where nothing was found.
      labels: [..., M] class indices.
      valid: [..., M] False for padding.
    """

    boxes: Any
    scores: Any
    labels: Any
    valid: Any

    def __getitem__(self, index) -> "Detections":
        return jax.tree.map(lambda array: array[index], self)

    def parts(self) -> dict[str, np.ndarray]:
        """What was found on one image, as `inference.result.Result.of` takes it; no padding."""
        real = np.asarray(self.valid)
        found = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return {name: np.asarray(array)[real] for name, array in found.items()}

    def to_image(self, scale: Float[Array, " B"], size: Float[Array, "B 2"]) -> "Detections":
        """Boxes of a batch from network pixels to pixels of the original images, clipped to them.

        Args:
          scale: original pixels per network pixel.
          size: (height, width) of the original images.
        """
        boxes = box_ops.clip(self.boxes * scale[:, None, None], size[:, None])
        return self.replace(boxes=boxes)


def detect(
    outputs: Outputs,
    anchors: Mapping[int, Float[np.ndarray, "_ _ A 4"]],
    *,
    method: str = "hard",
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    max_detections: int = 100,
    pre_nms_top_k: int = 5000,
    level_top_k: int = 0,
    pixel_offset: float = 0.0,
    clip_to: Float[Array, "B 2"] | None = None,
) -> Detections:
    """Detections of a batch, boxes in pixels of the network input.

    Args:
      outputs: raw predictions.
      anchors: {level: [H, W, A, 4]} of the same levels.
      method: 'hard', or 'gaussian' for soft-NMS, which the published AP values use.
      score_threshold: candidates below it are no detections.
      iou_threshold: of hard NMS.
      sigma: of soft-NMS.
      max_detections: M.
      pre_nms_top_k: (anchor, class) pairs that enter NMS.
      level_top_k: instead, how many of each level do, as in torchvision; 0 is off.
      pixel_offset: see `ops.nms.hard_nms`.
      clip_to: (height, width) per image that boxes are cut to before NMS, as effdet does; the
        reference doesn't.

    Raises:
      ValueError: an unknown method.
    """
    if method not in NMS_METHODS:
        raise ValueError(f"NMS method '{method}' is unknown; there are {', '.join(NMS_METHODS)}")
    flat_anchors = _flat_anchors(anchors)
    best_pairs = top_k_pairs_of_each if level_top_k else top_k_pairs

    def one_image(logits, deltas, limits):
        best, indices, classes = best_pairs(logits, level_top_k or pre_nms_top_k)
        deltas = jnp.concatenate(deltas)[indices]
        boxes = box_ops.decode(deltas, flat_anchors[indices])
        boxes = boxes if limits is None else box_ops.clip(boxes, limits)
        scores = jax.nn.sigmoid(best)
        scores = jnp.where(scores >= score_threshold, scores, -jnp.inf)
        options = {"max_detections": max_detections, "pixel_offset": pixel_offset}
        if method == "hard":
            kept, scores = hard_nms(boxes, scores, classes, iou_threshold=iou_threshold, **options)
        else:
            kept, scores = soft_nms(boxes, scores, classes, sigma=sigma, **options)
        valid = kept >= 0
        boxes = jnp.where(valid[:, None], boxes[kept], 0.0)
        labels = jnp.where(valid, classes[kept], 0)
        return Detections(boxes, scores, labels, valid)

    return jax.vmap(one_image)(
        _flatten(outputs.class_logits), _flatten(outputs.box_deltas), clip_to
    )


def candidates(
    outputs: Outputs, anchors: Mapping[int, Float[np.ndarray, "_ _ A 4"]]
) -> dict[str, Array]:
    """What non-maximum suppression chooses from, in the order level, y, x, anchor.

    Returns:
      'boxes': [B, N, 4] yxyx, pixels of the network input; 'scores': [B, N, K] in [0, 1].
    """
    decode = jax.vmap(box_ops.decode, in_axes=(0, None))
    deltas = jnp.concatenate(_flatten(outputs.box_deltas), axis=1)
    logits = jnp.concatenate(_flatten(outputs.class_logits), axis=1)
    return {"boxes": decode(deltas, _flat_anchors(anchors)), "scores": jax.nn.sigmoid(logits)}


def _flat_anchors(anchors: Mapping[int, Float[np.ndarray, "_ _ A 4"]]) -> Float[Array, "N 4"]:
    return jnp.concatenate([jnp.reshape(level, (-1, 4)) for level in anchors.values()])


def _flatten(levels: Mapping[int, Array]) -> list[Float[Array, "B _ D"]]:
    """{level: [B, H, W, A, D]} → [B, H·W·A, D] float32 of each level."""
    return [
        level.reshape(level.shape[0], -1, level.shape[-1]).astype(jnp.float32)
        for level in levels.values()
    ]
