"""Losses: element-wise functions, reduced in one visible place, `detection_loss`."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.targets import IGNORE, Targets
from effdet_jax.ops import boxes as box_ops

IOU_LOSSES = ("iou", "giou", "diou", "ciou")


def focal_loss(
    logits: Float[Array, "*N K"],
    labels: Int[Array, "*N"],
    *,
    alpha: float = 0.25,
    gamma: float = 1.5,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Float[Array, "*N K"]:
    """Sigmoid focal loss of every class of every anchor (arXiv:1708.02002, eq. 5).

    α_t (1 - p_t)^γ · BCE. Smoothed labels y(1 - s) + s/2 enter the cross-entropy only; α_t and p_t
    keep the hard ones, as in the reference. All in log space: finite for any logit.

    Args:
      logits: [..., K], any float dtype; computed in float32.
      labels: [...] class index; a negative one means no class, and `IGNORE` rows are zero.
      class_weights: K factors of the classes' losses, positive and negative anchors alike.
    """
    logits = logits.astype(np.promote_types(logits.dtype, jnp.float32))
    hot = labels[..., None].astype(jnp.int32) == jnp.arange(logits.shape[-1], dtype=jnp.int32)
    signed = jnp.where(hot, logits, -logits)
    log_p_t = jax.nn.log_sigmoid(signed)
    log_not_p_t = log_p_t - signed  # log σ(-x) = log σ(x) - x
    cross_entropy = -log_p_t
    if label_smoothing:
        half = 0.5 * label_smoothing
        cross_entropy = -(1 - half) * log_p_t - half * log_not_p_t
    weight = jnp.where(hot, alpha, 1 - alpha) * jnp.exp(gamma * log_not_p_t)
    if class_weights is not None:
        weight *= jnp.asarray(class_weights, logits.dtype)
    return jnp.where((labels != IGNORE)[..., None], weight * cross_entropy, 0.0)


def pixel_cross_entropy(
    logits: Float[Array, "*N K"],
    masks: Integer[Array, "*N"],
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Float[Array, "*N"]:
    """Softmax cross-entropy of every pixel; 0 where it is `classes.IGNORED_PIXEL`.

    Args:
      logits: [..., K] of background and classes, any float dtype; computed in float32.
      masks: [...] index of the true one.
      label_smoothing: share of the truth that is spread over all K.
      class_weights: K factors of the pixels' losses, by their true class.
    """
    log_p = jax.nn.log_softmax(logits.astype(np.promote_types(logits.dtype, jnp.float32)))
    counts = masks != IGNORED_PIXEL
    index = jnp.where(counts, masks, 0).astype(jnp.int32)
    loss = -jnp.take_along_axis(log_p, index[..., None], axis=-1)[..., 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, axis=-1)
    if class_weights is not None:
        loss *= jnp.asarray(class_weights, loss.dtype)[index]
    return jnp.where(counts, loss, 0.0)


def huber_loss(
    predictions: Float[Array, "*N"], targets: Float[Array, "*N"], *, delta: float = 0.1
) -> Float[Array, "*N"]:
    """½e² for |e| ≤ δ, δ|e| - ½δ² beyond: not divided by δ, unlike smooth L1."""
    error = jnp.abs(predictions - targets)
    quadratic = jnp.minimum(error, delta)
    return 0.5 * jnp.square(quadratic) + delta * (error - quadratic)


def iou_loss(
    predictions: Float[Array, "*N 4"], targets: Float[Array, "*N 4"], *, kind: str = "ciou"
) -> Float[Array, "*N"]:
    """1 - IoU, or its generalised, distance or complete form, of paired yxyx boxes.

    GIoU: arXiv:1902.09630; DIoU and CIoU: arXiv:1911.08287. CIoU's weight α gets no gradient.
    A target without height or width has loss 0; negative sides count as 0 (as in the reference).

    Raises:
      ValueError: `kind` isn't one of `IOU_LOSSES`.
    """
    if kind not in IOU_LOSSES:
        raise ValueError(f"IoU loss '{kind}' is unknown; there are {', '.join(IOU_LOSSES)}")
    y, x, height, width = box_ops.centers_and_sizes(predictions)
    target_y, target_x, target_height, target_width = box_ops.centers_and_sizes(targets)
    real = (target_height > 0) & (target_width > 0)
    height, width, target_height, target_width = (
        jnp.maximum(side, 0.0) for side in (height, width, target_height, target_width)
    )
    shared = box_ops.intersection(predictions, targets)
    union = height * width + target_height * target_width - shared
    value = _divide(shared, union)
    top_left = jnp.minimum(predictions[..., :2], targets[..., :2])
    bottom_right = jnp.maximum(predictions[..., 2:], targets[..., 2:])
    hull_height, hull_width = jnp.moveaxis(jnp.maximum(bottom_right - top_left, 0.0), -1, 0)
    if kind == "giou":
        hull = hull_height * hull_width
        value -= _divide(hull - union, hull)
    if kind in ("diou", "ciou"):
        distance = jnp.square(y - target_y) + jnp.square(x - target_x)
        value -= _divide(distance, jnp.square(hull_height) + jnp.square(hull_width))
    if kind == "ciou":
        target_angle = jnp.arctan(_divide(target_width, target_height))
        shape = 4 / np.pi**2 * jnp.square(target_angle - jnp.arctan(_divide(width, height)))
        trade_off = jax.lax.stop_gradient(_divide(shape, 1 - _divide(shared, union) + shape))
        value -= trade_off * shape
    return jnp.where(real, 1 - value, 0.0)


def _divide(numerator: Array, denominator: Array) -> Array:
    """Quotient, 0 where the denominator is 0, with finite gradients."""
    safe = jnp.where(denominator == 0, 1.0, denominator)
    return jnp.where(denominator == 0, 0.0, numerator / safe)


def detection_loss(
    outputs: Outputs,
    targets: Targets,
    anchors: Mapping[int, Float[np.ndarray, "... A 4"]],
    *,
    alpha: float = 0.25,
    gamma: float = 1.5,
    label_smoothing: float = 0.0,
    delta: float = 0.1,
    box_weight: float = 50.0,
    iou_kind: str = "",
    iou_weight: float = 1.0,
    class_weights: Sequence[float] | None = None,
    normalizer: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Class loss + 50 × box loss (+ IoU loss) of a batch, and the parts by metric name.

    The normaliser is the number of matched anchors of the whole (global) batch, plus 1; the box
    losses divide by four times that. A target element that is exactly 0 isn't trained, the way the
    reference masks unmatched anchors: it also leaves out a delta that happens to be 0.

    Args:
      outputs: raw predictions.
      targets: from `targets.assign`.
      anchors: {level: [H, W, A, 4]}; used by the IoU loss only.
      iou_kind: one of `IOU_LOSSES`, or '' for none.
      class_weights: K factors, see `focal_loss`.
      normalizer: of a batch that this one is a part of.
    """
    if normalizer is None:
        normalizer = jnp.sum(targets.num_positives) + 1.0
    focal_options = {
        "alpha": alpha,
        "gamma": gamma,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
    }
    focal = jax.checkpoint(  # Recomputed backwards: nothing of the logits' size is kept.
        lambda logits, labels: jnp.sum(focal_loss(logits, labels, **focal_options))
    )
    parts = {"loss/class": 0.0, "loss/box": 0.0} | ({"loss/iou": 0.0} if iou_kind else {})
    for level, labels in targets.labels.items():
        parts["loss/class"] += focal(outputs.class_logits[level], labels) / normalizer
        wanted = targets.box_deltas[level]
        deltas = outputs.box_deltas[level].astype(wanted.dtype)
        huber = jnp.where(wanted != 0.0, huber_loss(deltas, wanted, delta=delta), 0.0)
        parts["loss/box"] += jnp.sum(huber) / (4.0 * normalizer)
        if iou_kind:
            iou = _decoded_iou_loss(deltas, wanted, jnp.asarray(anchors[level]), iou_kind)
            parts["loss/iou"] += jnp.sum(iou) / (4.0 * normalizer)
    total = parts["loss/class"] + box_weight * parts["loss/box"]
    if iou_kind:
        total += iou_weight * parts["loss/iou"]
    return total, {"loss/total": total, **parts}


def _decoded_iou_loss(
    deltas: Float[Array, "*N 4"],
    wanted: Float[Array, "*N 4"],
    anchors: Float[Array, "*M 4"],
    kind: str,
) -> Float[Array, "*N"]:
    """IoU loss of decoded boxes; sides with a target of exactly 0 become 0, as in the reference."""
    mask = wanted != 0.0
    boxes = jnp.where(mask, box_ops.decode(deltas, anchors), 0.0)
    wanted_boxes = jnp.where(mask, box_ops.decode(wanted, anchors), 0.0)
    return iou_loss(boxes, wanted_boxes, kind=kind)
