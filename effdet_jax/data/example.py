"""What every source gives: an `Example`, its `GroundTruth`, and a `DataReport` of what was left out."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.errors import UserError


class DataError(UserError):
    """The data can't be used; the message names the file, the numbers and what to do.

    Attributes:
      report: what was found until then, if it is known.
    """

    def __init__(self, message: str, report: "DataReport | None" = None):
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What is known of an image without its pixels.

    Attributes:
      image_id: the data set's own id, any type.
      size: (height, width), pixels.
      boxes: [n, 4] yxyx float32, pixels of the original image.
      labels: [n] int32 class indices.
      crowd: [n] bool; crowd boxes are left out of training and ignored by COCO's evaluation.
      area: [n] float64 of the objects, as the data set says (its masks), else of the boxes.
    """

    image_id: int | str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its ground truth.

    Attributes:
      image: [H, W, 3] RGB uint8.
      truth: boxes and labels in pixels of `image`.
      dropped: boxes left out as this record was read (not those the source's report has counted).
      error: why the image couldn't be read, '' if it could; `image` is black then.
      mask: [H, W] uint8 of a source that was opened with masks: 0 is background, 1 + class index, and
        `classes.IGNORED_PIXEL`; else None.
    """

    image: np.ndarray
    truth: GroundTruth
    dropped: int = 0
    error: str = ""
    mask: np.ndarray | None = None


@runtime_checkable
class Source(Protocol):
    """Random access to examples: what a pipeline reads.

    Attributes:
      class_names: classes, taken from the data.
      report: what was found and left out when the source was opened.
      endless: every index has an example of its own; `len` is then what counts as an epoch.
    """

    class_names: ClassNames
    report: "DataReport"
    endless: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def describe(self, index: int) -> str:
        """File and id of an example, for messages."""

    def ground_truth(self) -> Iterator[GroundTruth]:
        """Ground truth of all examples, in order, without decoding images where possible."""


class DataReport:
    """What a source holds, and every fault that was found in it.

    Attributes:
      images, empty: how many, and how many of them without boxes.
      boxes, crowd: how many, and how many of them are crowds.
      classes: {class name: boxes that aren't crowds}, all classes; empty if that isn't known yet.
      modes: {'RGB', 'L', 'I;16', …: images}, Pillow's names, of the files that were looked at.
      faults: {kind: where}, all cases of what is left out or changed.
      stops: faults of the whole set, too many to be chance: why, and what to type.
      notes: what is good to know.
    """

    EXAMPLES_SHOWN = 3

    def __init__(self):
        self.images = self.boxes = self.crowd = self.empty = 0
        self.classes: dict[str, int] = {}
        self.modes: dict[str, int] = {}
        self.faults: dict[str, list[str]] = {}
        self.stops: list[str] = []
        self.notes: list[str] = []

    def drop(self, reason: str, where: str):
        """Counts something that is left out or changed: 'box without area', 'train.json: …'."""
        self.faults.setdefault(reason, []).append(where)

    @property
    def dropped(self) -> dict[str, int]:
        """{reason: how many}."""
        return {reason: len(cases) for reason, cases in self.faults.items()}

    def lines(self) -> list[str]:
        """For the banner: a line of counts, then one per reason, the most frequent first."""
        text = f"{self.images} images"
        if self.boxes:  # Else they are known only as they are read.
            text += f" ({self.empty} without boxes), {self.boxes} boxes"
        lines = [text + (f", {self.crowd} crowd" if self.crowd else "")]
        for reason, cases in sorted(self.faults.items(), key=lambda item: -len(item[1])):
            shown = "; ".join(cases[: self.EXAMPLES_SHOWN])
            lines.append(f"{len(cases)} × {reason}, first: {shown}")
        return lines + [f"tolerated: {reason}" for reason in self.stops] + self.notes

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        return dict(vars(self))


def make_truth(
    image_id: int | str,
    size: tuple[int, int],
    rows: Sequence[tuple[Sequence[float], int, bool, float]] = (),
) -> GroundTruth:
    """`GroundTruth` from rows of (yxyx box, class index, crowd, area)."""
    boxes, labels, crowd, area = zip(*rows) if rows else ((), (), (), ())
    return GroundTruth(
        image_id,
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int32),
        np.array(crowd, bool),
        np.array(area, np.float64),
    )


def unreadable(image_id: int | str, size: tuple[int, int], error: str) -> Example:
    """A black example in the place of an image that can't be read; it is never trained on."""
    return Example(np.zeros((*size, 3), np.uint8), make_truth(image_id, size), error=error)


def coco_dataset(truths: Iterable[GroundTruth], class_names: ClassNames) -> dict[str, Any]:
    """Ground truth as a COCO-JSON dict."""
    images, annotations = [], []
    for truth in truths:
        height, width = truth.size
        images.append({"id": truth.image_id, "height": height, "width": width})
        for box, label, crowd, area in zip(truth.boxes, truth.labels, truth.crowd, truth.area):
            top, left, bottom, right = (float(side) for side in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes 0 for "no match".
                    "image_id": truth.image_id,
                    "category_id": class_names.ids[int(label)],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    categories = [
        {"id": id_, "name": name} for id_, name in zip(class_names.ids, class_names.names)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
