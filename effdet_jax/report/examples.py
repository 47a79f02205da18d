"""Ground truth beside detections: which images to show, and how."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import GroundTruth, Source
from effdet_jax.evaluation.analysis import Analysis, ImageAnalysis
from effdet_jax.report.page import thumbnail

COLOURS = {"found": "#22c58b", "missed": "#ffb000", "right": "#22c58b", "wrong": "#ff5c72"}
KINDS = ("best", "worst", "random")
_SIDE = 420  # Of a picture, pixels.
_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image twice: with its ground truth, and with what was detected.

    Attributes:
      kind: one of `KINDS`.
      name: of the image.
      truth, detections: [H, W, 3] uint8, the longer side 420 px.
      found, missed, wrong: how many boxes.
    """

    kind: str
    name: str
    truth: np.ndarray
    detections: np.ndarray
    found: int
    missed: int
    wrong: int


def choose(images: Sequence[ImageAnalysis], each: int) -> dict[str, list[int]]:
    """{'best': indices, 'worst': …, 'random': …}, `each` of them, every image once.

    Of few images a third is the most of a kind: the best of them aren't all there are.
    The best have the highest F1 and most boxes, the worst the lowest F1 and most faults. The random
    ones are the same at every evaluation.
    """
    each = min(each, max(1, len(images) // len(KINDS)))
    with_boxes = [image for image in images if image.num_boxes]
    best = sorted(with_boxes, key=lambda image: (-image.f1, -image.num_boxes))[:each]

    def badness(image: ImageAnalysis) -> tuple[float, int]:
        return image.f1, image.true_positives - image.num_boxes - image.false_positives

    chosen = {image.index for image in best}
    faulty = [image for image in images if image.num_boxes or image.false_positives]
    worst = [image for image in sorted(faulty, key=badness) if image.index not in chosen][:each]
    chosen |= {image.index for image in worst}
    order = np.random.default_rng(0).permutation(len(images))
    random = [images[i].index for i in order if images[i].index not in chosen][:each]
    return {
        "best": [image.index for image in best],
        "worst": [image.index for image in worst],
        "random": random,
    }


def pairs(
    source: Source,
    results: Sequence[Mapping[str, Any]],
    analysis: Analysis,
    each: int = 4,
) -> Iterator[Pair]:
    """The chosen images; those that can't be read are left out.

    Args:
      results: COCO result rows.
      analysis: of them.
      each: how many of each kind.
    """
    chosen = choose(analysis.images, each)
    kinds = {index: kind for kind, indices in chosen.items() for index in indices}
    rows = collections.defaultdict(list)
    for result in results:
        if result["score"] >= analysis.threshold:
            rows[result["image_id"]].append(result)
    for index, kind in kinds.items():
        example = source[index]
        if not example.error:
            found = sorted(rows[example.truth.image_id], key=lambda one: -one["score"])
            yield _pair(
                kind,
                source.describe(index),
                example.image,
                example.truth,
                found,
                source.class_names,
            )


def _pair(
    kind: str,
    name: str,
    image: np.ndarray,
    truth: GroundTruth,
    results: Sequence[Mapping[str, Any]],
    class_names: ClassNames,
) -> Pair:
    small, factor = thumbnail(image, _SIDE, enlarge=True)
    real = ~truth.crowd
    boxes, labels = truth.boxes[real], truth.labels[real]
    index_of_id = class_names.index_of_id()
    found_labels = np.array([index_of_id[one["category_id"]] for one in results], int)
    sides = np.array([one["bbox"] for one in results], np.float64).reshape(-1, 4)
    found_boxes = np.stack(
        [sides[:, 1], sides[:, 0], sides[:, 1] + sides[:, 3], sides[:, 0] + sides[:, 2]], axis=-1
    )
    is_found, is_right = match(boxes, labels, found_boxes, found_labels)
    names = [class_names.names[label] for label in labels]
    scored = [
        f"{class_names.names[label]} {one['score']:.2f}"
        for label, one in zip(found_labels, results)
    ]
    return Pair(
        kind,
        name,
        _draw(small, boxes * factor, names, ["found" if found else "missed" for found in is_found]),
        _draw(
            small,
            found_boxes * factor,
            scored,
            ["right" if right else "wrong" for right in is_right],
        ),
        found=int(is_found.sum()),
        missed=int((~is_found).sum()),
        wrong=int((~is_right).sum()),
    )


def match(
    boxes: np.ndarray, labels: np.ndarray, found_boxes: np.ndarray, found_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes are found, and which detections are right: one for one, at IoU 0.5, by class.

    Args:
      boxes, labels: [n, 4] yxyx and [n], of the ground truth.
      found_boxes, found_labels: [m, 4] and [m], the surest first.

    Returns:
      [n] and [m] bool.
    """
    is_found, is_right = np.zeros(len(boxes), bool), np.zeros(len(found_boxes), bool)
    if not len(boxes) or not len(found_boxes):
        return is_found, is_right
    iou = mask.iou(_xywh(found_boxes), _xywh(boxes), [0] * len(boxes))  # [m, n]
    for number, overlap in enumerate(iou):
        free = np.where((labels == found_labels[number]) & ~is_found, overlap, 0.0)
        nearest = int(free.argmax())
        if free[nearest] >= _IOU:
            is_found[nearest] = is_right[number] = True
    return is_found, is_right


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """pycocotools' form of yxyx boxes."""
    top, left, bottom, right = np.asarray(boxes, np.float64).T
    # Row by row in memory: pycocotools doesn't look at strides.
    return np.ascontiguousarray(np.stack([left, top, right - left, bottom - top], axis=1))


def _draw(
    image: np.ndarray, boxes: np.ndarray, names: Sequence[str], states: Sequence[str]
) -> np.ndarray:
    """A copy with boxes in the colours of their states; names where there is room for them."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=12)
    corners = [tuple(float(side) for side in box) for box in boxes]
    for (top, left, bottom, right), state in zip(corners, states):
        area = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(area, outline=COLOURS[state], width=2)
    taken: list[tuple[float, float, float, float]] = []
    for (top, left, _, right), name, state in zip(corners, names, states):  # The surest first.
        width, height = draw.textlength(name, font=font) + 6, 16
        x = max(min(left, canvas.width - width), 0.0)
        y = max(top - height, 0.0)
        area = (x, y, x + width, y + height)
        hides = width > 2 * (right - left) + 20 or any(_overlap(area, other) for other in taken)
        if not hides:
            taken.append(area)
            draw.rectangle(area, fill=COLOURS[state])
            draw.text((x + 3, y + height / 2), name, font=font, fill="black", anchor="lm")
    return np.asarray(canvas)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
