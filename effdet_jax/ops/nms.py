"""Non-maximum suppression of one image, per class, with static shapes; `jax.vmap` it over a batch."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from effdet_jax.ops import boxes as box_ops

BLOCK = 128  # Candidates looked at together; more would be compared in vain once M are kept.


def hard_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    classes: Int[Array, " N"],
    *,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    pixel_offset: float = 0.0,
) -> tuple[Int[Array, " M"], Float[Array, " M"]]:
    """Greedy NMS: a box goes if a better one of its class, already kept, overlaps it by more.

    Candidates are taken in blocks and compared with the boxes kept so far, never with all others,
    and the loop ends as soon as `max_detections` are kept.

    Args:
      boxes: yxyx, pixels.
      scores: descending, as `lax.top_k` gives them; rows with -inf are padding.
      classes: boxes of different classes don't suppress each other.
      iou_threshold: the largest IoU two kept boxes of a class may have.
      max_detections: M.
      pixel_offset: added to every side before the IoU; the reference's numpy evaluation, behind the
        published numbers, uses 1.

    Returns:
      Indices of the kept boxes, best first, -1 beyond the last; and their scores, 0 there.
    """
    blocks = -(-len(boxes) // BLOCK)
    padding = blocks * BLOCK - len(boxes)
    candidates = (
        jnp.pad(_with_offset(boxes, pixel_offset), ((0, padding), (0, 0))),
        jnp.pad(classes, (0, padding)),
        jnp.pad(scores > -jnp.inf, (0, padding)),
    )
    kept_indices = _keep_greedily(candidates, iou_threshold, max_detections)
    return kept_indices, jnp.where(kept_indices >= 0, scores[kept_indices], 0.0)


def _keep_greedily(
    candidates: tuple[Array, Array, Array], iou_threshold: float, max_detections: int
) -> Int[Array, " M"]:
    """Indices of kept candidates (boxes, classes, whether real), -1 beyond the last."""
    boxes, classes, real = candidates
    earlier = jnp.tril(jnp.ones((BLOCK, BLOCK), bool), -1)

    def overlaps(boxes_a, classes_a, boxes_b, classes_b):
        same = classes_a[:, None] == classes_b
        return same & (box_ops.iou(boxes_a[:, None], boxes_b) > iou_threshold)

    def more(state):
        block, kept, *_ = state
        return (block < len(boxes) // BLOCK) & (kept < max_detections)

    def one_block(state):
        block, kept, kept_boxes, kept_classes, kept_indices = state
        start = block * BLOCK
        some_boxes, some_classes, alive = (
            lax.dynamic_slice_in_dim(x, start, BLOCK) for x in (boxes, classes, real)
        )
        by_kept = overlaps(some_boxes, some_classes, kept_boxes, kept_classes)
        alive &= ~jnp.any(by_kept & (jnp.arange(max_detections) < kept), axis=1)
        by_block = overlaps(some_boxes, some_classes, some_boxes, some_classes) & earlier
        keep = _greedy(by_block, alive)
        slot = jnp.where(keep, kept + jnp.cumsum(keep) - 1, max_detections)
        kept_boxes = kept_boxes.at[slot].set(some_boxes, mode="drop")
        kept_classes = kept_classes.at[slot].set(some_classes, mode="drop")
        kept_indices = kept_indices.at[slot].set(start + jnp.arange(BLOCK), mode="drop")
        kept = jnp.minimum(kept + jnp.sum(keep), max_detections)
        return block + 1, kept, kept_boxes, kept_classes, kept_indices

    nothing = jnp.zeros((max_detections, 4), boxes.dtype), jnp.zeros(max_detections, classes.dtype)
    indices = jnp.full(max_detections, -1, jnp.int32)
    return lax.while_loop(more, one_block, (jnp.int32(0), jnp.int32(0), *nothing, indices))[-1]


def _greedy(suppresses: Array, alive: Array) -> Array:
    """Which of a block stay: `suppresses[i, j]` says that j, an earlier one, would remove i.

    Repeats "I stay unless someone who stays removes me" until nothing changes, which is the greedy
    answer: after n rounds the first n are settled.
    """

    def one_round(state):
        keep, _ = state
        settled = alive & ~jnp.any(suppresses & keep, axis=1)
        return settled, jnp.any(settled != keep)

    return lax.while_loop(lambda state: state[1], one_round, (alive, jnp.bool_(True)))[0]


def soft_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    classes: Int[Array, " N"],
    *,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    max_detections: int = 100,
    pixel_offset: float = 0.0,
) -> tuple[Int[Array, " M"], Float[Array, " M"]]:
    """Gaussian soft-NMS (arXiv:1704.04503): a kept box lowers the scores of those it overlaps.

    Each kept box multiplies the scores of its class by exp(-IoU² / σ); there is no hard cut. Boxes
    that fall below `score_threshold` this way are dropped, so the best box of a class stays
    whatever its score, as in the reference. Arguments and results are those of `hard_nms`, but
    `scores` may be in any order and come back lowered.

    Args:
      sigma: larger is milder.
      score_threshold: least score of a box that overlaps a better one.
    """
    sides = _with_offset(boxes, pixel_offset)

    def one_pick(scores, _):
        best = jnp.argmax(scores)
        score = scores[best]
        same = classes == classes[best]
        weight = jnp.exp(-jnp.square(box_ops.iou(sides[best], sides)) / sigma)
        lowered = jnp.where(same, scores * weight, scores)
        lowered = jnp.where(same & (lowered < score_threshold), -jnp.inf, lowered)
        picked = score > -jnp.inf
        index = jnp.where(picked, best.astype(jnp.int32), -1)
        return lowered.at[best].set(-jnp.inf), (index, jnp.where(picked, score, 0.0))

    _, kept = lax.scan(one_pick, scores, length=max_detections)
    return kept


def _with_offset(boxes: Array, pixel_offset: float) -> Array:
    """Boxes grown at the far side, so that half-open areas count `offset` pixels more per side."""
    return boxes + jnp.array([0.0, 0.0, pixel_offset, pixel_offset], boxes.dtype)


def top_k_pairs_of_each(
    levels: Sequence[Float[Array, "_ K"]], k: int
) -> tuple[Float[Array, " n"], Int[Array, " n"], Int[Array, " n"]]:
    """The k best pairs of every level, together, best first: see `top_k_pairs`."""
    found, start = [], 0
    for level in levels:
        best, anchors, classes = top_k_pairs([level], k)
        found.append((best, start + anchors, classes))
        start += len(level)
    best, anchors, classes = map(jnp.concatenate, zip(*found))
    best, order = lax.top_k(best, len(best))
    return best, anchors[order], classes[order]


def top_k_pairs(
    levels: Sequence[Float[Array, "_ K"]], k: int
) -> tuple[Float[Array, " k"], Int[Array, " k"], Int[Array, " k"]]:
    """The k best (anchor, class) pairs of one image: `(logits, anchors, classes)`, best first.

    Exact in two stages: the k best pairs lie among the k anchors with the best class, a far smaller
    search than all N·K, and are no worse than the last of these anchors. Equal logits come in the
    order of the flat index.

    Args:
      levels: logits of each level's anchors; anchors are counted through all levels.
      k: pairs; fewer if there are no more.
    """
    # Level by level: XLA copies what is concatenated to look for maxima in it, not to take rows.
    of_anchors = jnp.concatenate([jnp.max(level, axis=1) for level in levels])
    logits = jnp.concatenate(levels)
    anchors = jnp.arange(len(logits))
    if len(logits) > k:
        best_anchors, indices = lax.top_k(of_anchors, k)
        anchors = jnp.sort(indices)
        # Not `best_anchors[-1]`: of what is sliced again XLA no longer sees a top-k, and sorts all.
        last = jnp.min(best_anchors)
        # What can't be among the best never enters the second search.
        logits = logits[anchors]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    num_classes = logits.shape[1]
    best, flat = lax.top_k(logits.reshape(-1), min(k, logits.size))
    return best, anchors[flat // num_classes], flat % num_classes
