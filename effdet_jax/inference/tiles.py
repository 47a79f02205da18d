"""Large images in overlapping tiles: small objects at a size the network sees, one list of boxes."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from effdet_jax.detection.postprocess import Detections
from effdet_jax.ops.nms import hard_nms

Detect = Callable[[Sequence[np.ndarray]], Detections]

# Nearer to a tile's border than this share of its side, a box counts as cut by it.
_BORDER = 0.01
# Boxes of which one is less certain than this share of the other's score aren't taken for the same.
_RIVAL = 0.5


@dataclasses.dataclass(frozen=True)
class Tiled:
    """`tiled(images)` → `Detections` of each image, found on tiles of it and on all of it.

    Every tile has the same shape, so that the network sees all of an image at one scale; the whole
    image, shrunk to the network's input, is for objects larger than a tile. An image that is no
    larger than a tile is looked at once.

    A box at a tile's border that isn't the image's is a piece of an object, unless it happens to end
    there. Objects smaller than the overlap are whole in some tile. So, within a class and among
    boxes of different views:

    1. A piece goes if a box that isn't cut, seen through the piece's tile, is the same: their IoU is
       above `iou_threshold`, and it is at least half as certain. It takes the higher score.
    2. Pieces that are the same in the area both tiles see, and no more than twice as certain as each
       other, become one: the box around them, with the highest score.
    3. What is left goes through `ops.nms.hard_nms`, in pixels of the image.

    A piece that nothing stands for stays as it is.

    Attributes:
      detect: [H, W, 3] uint8 arrays of any size → their detections in their own pixels.
      tile: side of a tile, pixels.
      overlap: of neighbouring tiles, the least share of their side, in [0, 1).
      iou_threshold: above it two boxes are the same object.
      max_detections: the most boxes of an image.

    Raises:
      ValueError: a tile without pixels, or an overlap that leaves no step from tile to tile.
    """

    detect: Detect
    tile: int = 768
    overlap: float = 0.2
    iou_threshold: float = 0.5
    max_detections: int = 1000

    def __post_init__(self):
        if self.tile < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"tile={self.tile}, overlap={self.overlap:g}: a tile has at least a pixel, the "
                "overlap is a share of it in [0, 1), such as 0.2"
            )

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of each image, best first, without padding, as numpy arrays."""
        views = [image_views(image.shape[:2], self.tile, self.overlap) for image in images]
        parts = [
            image[top:bottom, left:right]
            for image, some in zip(images, views)
            for top, left, bottom, right in some
        ]
        found = self.detect(parts)
        ends = np.cumsum([len(some) for some in views])
        return [self._merge(found[end - len(some) : end], some) for end, some in zip(ends, views)]

    def _merge(self, found: Detections, views: np.ndarray) -> Detections:
        """One image's detections from those of its views [V, M]."""
        view, slot = np.nonzero(found.valid)
        boxes, scores, labels = (
            np.asarray(array)[view, slot] for array in (found.boxes, found.scores, found.labels)
        )
        if len(views) > 1:
            boxes = boxes + views[view][:, [0, 1, 0, 1]].astype(np.float32)
            cut = _cut(boxes, views, view)
            boxes, scores, kept = _join(boxes, scores, labels, cut, views, view, self.iou_threshold)
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
            kept = _suppress(boxes, scores, labels, self.iou_threshold, self.max_detections)
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        return Detections(boxes, scores, labels, np.ones(len(boxes), bool))


def image_views(size: tuple[int, int], tile: int, overlap: float) -> np.ndarray:
    """[V, 4] yxyx, pixels: the whole image first, then its tiles, row by row.

    Tiles are spread evenly, the last of a row ending at the image's border; along a side shorter
    than a tile there is one as long as that side.

    Args:
      size: (height, width) of the image.
      tile: side of a tile.
      overlap: least share of it that neighbours have in common.
    """
    whole = (0, 0, *size)
    if max(size) <= tile:
        return np.array([whole], np.int32)
    starts = []
    for side in size:
        steps = max(0, int(np.ceil((side - tile) / max(1.0, tile * (1 - overlap)))))
        starts.append(np.linspace(0, max(0, side - tile), steps + 1).round().astype(int))
    height, width = (min(tile, side) for side in size)
    tiles = [(y, x, y + height, x + width) for y, x in itertools.product(*starts)]
    return np.array([whole, *tiles], np.int32)


def _cut(boxes: np.ndarray, views: np.ndarray, view: np.ndarray) -> np.ndarray:
    """[N] whether a box reaches a border of its view that isn't one of the image."""
    inner = views != views[0]
    margin = _BORDER * (views[view, 2:] - views[view, :2])
    near = np.abs(boxes - views[view]) <= np.concatenate([margin, margin], axis=1)
    return np.any(near & inner[view], axis=1)


def _join(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    cut: np.ndarray,
    views: np.ndarray,
    view: np.ndarray,
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N, 4], scores and which of them stay, when pieces have gone or become one."""
    best, gone, pairs = scores.copy(), np.zeros(len(boxes), bool), []
    for number, area in enumerate(views[1:], 1):
        pieces = np.flatnonzero(cut & (view == number))
        near = np.flatnonzero((view != number) & _meets(boxes, area))
        rivals = labels[pieces][:, None] == labels[near]
        rivals &= scores[near] >= _RIVAL * scores[pieces][:, None]
        seen = _clip(boxes[near], area)
        whole = rivals & ~cut[near] & (_iou(boxes[pieces][:, None], seen) > iou_threshold)
        for piece, wholes in zip(pieces, whole):
            if wholes.any():
                surest = near[wholes][np.argmax(scores[near[wholes]])]
                best[surest] = max(best[surest], scores[piece])
                gone[piece] = True
        shared = _clip(boxes[pieces][:, None], views[view[near]])
        same = rivals & cut[near] & (_iou(shared, seen) > iou_threshold)
        same &= scores[pieces][:, None] >= _RIVAL * scores[near]
        rows, columns = np.nonzero(same)
        pairs.append(np.stack([pieces[rows], near[columns]]))
    return _unite(boxes, best, gone, np.concatenate(pairs, axis=1))


def _unite(
    boxes: np.ndarray, scores: np.ndarray, gone: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every chain of `pairs` [2, P] as its first: the box around all and the highest score.

    If one of a chain has gone, all have.
    """
    first = np.arange(len(boxes))
    while True:
        earlier = first.copy()
        np.minimum.at(earlier, pairs[0], first[pairs[1]])
        np.minimum.at(earlier, pairs[1], first[pairs[0]])
        if np.array_equal(earlier, first):
            break
        first = earlier
    around, highest, lost = boxes.copy(), scores.copy(), gone.copy()
    np.minimum.at(around[:, :2], first, boxes[:, :2])
    np.maximum.at(around[:, 2:], first, boxes[:, 2:])
    np.maximum.at(highest, first, scores)
    np.logical_or.at(lost, first, gone)
    return around, highest, ~lost & (first == np.arange(len(boxes)))


def _suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    iou_threshold: float,
    max_detections: int,
) -> np.ndarray:
    """Indices of the boxes that NMS keeps, best first."""
    order = np.argsort(-scores, kind="stable")
    # To a power of two: a program for each number of boxes would be compiled otherwise.
    padding = max(1024, 1 << (len(order) - 1).bit_length()) - len(order)
    kept, _ = _hard_nms(
        np.pad(boxes[order], ((0, padding), (0, 0))),
        np.pad(scores[order], (0, padding), constant_values=-np.inf),
        np.pad(labels[order], (0, padding)),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    kept = np.asarray(kept)
    return order[kept[kept >= 0]]


_hard_nms = jax.jit(hard_nms, static_argnames=("iou_threshold", "max_detections"))


def _clip(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """`[..., 4]` boxes cut to `[..., 4]` areas."""
    low, high = area[..., [0, 1, 0, 1]], area[..., [2, 3, 2, 3]]
    return np.clip(boxes, low, high).astype(boxes.dtype)


def _meets(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """[N] whether a box has pixels in the area."""
    return np.all((boxes[:, :2] < area[2:]) & (boxes[:, 2:] > area[:2]), axis=1)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`ops.boxes.iou` in numpy: the numbers of boxes differ from image to image."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    union = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1)
    return shared / np.maximum(union - shared, 1e-9)
