"""Boxes are `[ymin, xmin, ymax, xmax]`, float32 pixels, half-open: area = (ymax - ymin)(xmax - xmin)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Smallest side, in pixels, that enters a logarithm (google/automl's box coder uses the same).
EPSILON = 1e-8


def area(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Area of `[..., 4]` yxyx boxes; negative or zero for degenerate ones is not hidden."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Float[Array, "*N 4"], b: Float[Array, "*M 4"]) -> Float[Array, "*O"]:
    """Area that two broadcastable arrays of yxyx boxes share; zero where they only touch."""
    height = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    width = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    return jnp.maximum(height, 0.0) * jnp.maximum(width, 0.0)


def iou(a: Float[Array, "*N 4"], b: Float[Array, "*M 4"]) -> Float[Array, "*O"]:
    """Intersection over union of broadcastable yxyx boxes, in [0, 1]; zero where nothing overlaps.

    For all pairs of `[N, 4]` and `[M, 4]` call `iou(a[:, None], b)`. The order of the operations is
    the reference's (areas added, then the intersection taken off): equal anchors must tie exactly.
    """
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return jnp.where(shared > 0.0, shared / jnp.where(union > 0.0, union, 1.0), 0.0)


def centers_and_sizes(boxes: Float[Array, "*N 4"]) -> tuple[Array, Array, Array, Array]:
    """`(y, x, height, width)` of yxyx boxes, each `[...]`, pixels."""
    height = boxes[..., 2] - boxes[..., 0]
    width = boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + height / 2, boxes[..., 1] + width / 2, height, width


def encode(boxes: Float[Array, "*N 4"], anchors: Float[Array, "*M 4"]) -> Float[Array, "*O 4"]:
    """Box deltas `[ty, tx, th, tw]` that move `anchors` onto `boxes`; inverse of `decode`.

    `ty = (y - y_a) / h_a`, `th = log(h / h_a)`, without variances (EfficientDet's coder is
    Faster R-CNN's, arXiv:1506.01497 eq. 2). Sides below 1e-8 px count as 1e-8 px.
    """
    y, x, height, width = centers_and_sizes(boxes)
    anchor_y, anchor_x, anchor_height, anchor_width = centers_and_sizes(anchors)
    height, width = jnp.maximum(height, EPSILON), jnp.maximum(width, EPSILON)
    anchor_height = jnp.maximum(anchor_height, EPSILON)
    anchor_width = jnp.maximum(anchor_width, EPSILON)
    return jnp.stack(
        [
            (y - anchor_y) / anchor_height,
            (x - anchor_x) / anchor_width,
            # Not log(h / h_a): XLA may multiply by a reciprocal, and equal sides must give 0.
            jnp.log(height) - jnp.log(anchor_height),
            jnp.log(width) - jnp.log(anchor_width),
        ],
        axis=-1,
    )


def decode(deltas: Float[Array, "*N 4"], anchors: Float[Array, "*M 4"]) -> Float[Array, "*O 4"]:
    """yxyx boxes from `[ty, tx, th, tw]` deltas; not clipped, and th, tw are not clamped either."""
    anchor_y, anchor_x, anchor_height, anchor_width = centers_and_sizes(anchors)
    y = deltas[..., 0] * anchor_height + anchor_y
    x = deltas[..., 1] * anchor_width + anchor_x
    height = jnp.exp(deltas[..., 2]) * anchor_height
    width = jnp.exp(deltas[..., 3]) * anchor_width
    return jnp.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=-1)


def clip(boxes: Float[Array, "*N 4"], size: Float[Array, "*M 2"]) -> Float[Array, "*N 4"]:
    """Boxes cut to `[0, height] × [0, width]`; `size` is `[..., 2]` (height, width), pixels."""
    limits = jnp.concatenate([size, size], axis=-1)
    return jnp.clip(boxes, 0.0, limits)


def mirror(boxes: Float[Array, "*N 4"], width: Float[Array, "*M"]) -> Float[Array, "*O 4"]:
    """Boxes of an image mirrored left and right; `width` is `[...]`, of the image, pixels."""
    ymin, xmin, ymax, xmax = (boxes[..., side] for side in range(4))
    return jnp.stack([ymin, width - xmax, ymax, width - xmin], axis=-1)
