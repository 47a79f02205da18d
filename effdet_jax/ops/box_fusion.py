"""Weighted box fusion of one image's boxes, per class, with static shapes; `jax.vmap` it over a batch."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from effdet_jax.ops import boxes as box_ops


def weighted_box_fusion(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    classes: Int[Array, " N"],
    *,
    num_views: int,
    iou_threshold: float = 0.55,
    max_detections: int = 100,
) -> tuple[Float[Array, "M 4"], Float[Array, " M"], Int[Array, " M"]]:
    """Boxes that several views of an image have found, averaged (Solovyev et al., arXiv:1910.13302).

    Boxes are taken from the highest score to the lowest. Each joins the cluster of its class whose
    fused box overlaps it most, if their IoU is above `iou_threshold`, and begins a cluster otherwise.
    Of a cluster's n boxes b_i with scores s_i

        box = Σ s_i b_i / Σ s_i        score = (Σ s_i / n) · min(n, V) / V

    where V is the number of views: what few of them see is less certain. Views have equal weights.

    Args:
      boxes: yxyx, pixels of the image; those of all views together.
      scores: in [0, 1], in any order; rows with -inf are padding.
      classes: boxes of different classes aren't fused.
      num_views: V.
      iou_threshold: the paper's best was 0.55.
      max_detections: M.

    Returns:
      Fused boxes, best first; zeros beyond the last. Their scores, 0 there. Their classes, -1 there.
    """
    order = jnp.argsort(-scores, stable=True)
    fused, means, labels, counts = _cluster(
        boxes[order], scores[order], classes[order], iou_threshold
    )
    seen = jnp.minimum(counts, num_views).astype(means.dtype) / num_views
    scores = jnp.where(counts > 0, means * seen, -jnp.inf)
    best, clusters = lax.top_k(scores, min(max_detections, len(scores)))
    padding = max_detections - len(clusters)
    real = jnp.pad(best > -jnp.inf, (0, padding))
    best, clusters = jnp.pad(best, (0, padding)), jnp.pad(clusters, (0, padding))
    return (
        jnp.where(real[:, None], fused[clusters], 0.0),
        jnp.where(real, best, 0.0),
        jnp.where(real, labels[clusters], -1),
    )


def _cluster(
    boxes: Array, scores: Array, classes: Array, iou_threshold: float
) -> tuple[Array, Array, Array, Array]:
    """Of candidates, best first: each cluster's box, mean score, class, and number of boxes.

    There are as many slots as candidates; those beyond the last cluster have count 0.
    """
    number = len(boxes)

    def one_box(state, candidate):
        fused, weights, labels, counts, used = state
        box, score, label = candidate
        overlap = jnp.where((labels == label) & (counts > 0), box_ops.iou(fused, box), 0.0)
        best = jnp.argmax(overlap)
        slot = jnp.where(overlap[best] > iou_threshold, best.astype(used.dtype), used)
        slot = jnp.where(score > -jnp.inf, slot, number)  # Padding joins none.
        weight = weights.at[slot].get(mode="fill", fill_value=0.0) + score
        # A running mean, not a sum of s·b: pixels times scores would lose bits to the sum.
        share = jnp.where(weight > 0, score / jnp.where(weight > 0, weight, 1.0), 0.0)
        share = jnp.where(slot == used, 1.0, share)
        old = fused.at[slot].get(mode="fill", fill_value=0.0)
        state = (
            fused.at[slot].set(old + share * (box - old), mode="drop"),
            weights.at[slot].set(weight, mode="drop"),
            labels.at[slot].set(label, mode="drop"),
            counts.at[slot].add(1, mode="drop"),
            used + (slot == used).astype(used.dtype),
        )
        return state, None

    start = (
        jnp.zeros_like(boxes),
        jnp.zeros_like(scores),
        jnp.full_like(classes, -1),
        jnp.zeros(number, jnp.int32),
        jnp.int32(0),
    )
    (fused, weights, labels, counts, _), _ = lax.scan(one_box, start, (boxes, scores, classes))
    return fused, weights / jnp.maximum(counts, 1).astype(weights.dtype), labels, counts
