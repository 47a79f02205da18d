"""What every source gives: an `Example`, its `GroundTruth`, and a `DataReport` of what was left out."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.errors import UserError


class DataError(UserError):
    """The data can't be used; the message names the file, the numbers and what to do."""


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
    """

    image: np.ndarray
    truth: GroundTruth
    dropped: int = 0
    error: str = ""


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
    """Counts of what a source holds and of what it leaves out, with the first cases by name."""

    EXAMPLES_KEPT = 3

    def __init__(self):
        self.images = self.boxes = self.crowd = self.empty = 0
        self.notes: list[str] = []
        self._dropped: dict[str, list[str]] = collections.defaultdict(list)
        self._counts: collections.Counter[str] = collections.Counter()

    def drop(self, reason: str, where: str):
        """Counts something that is left out or changed: 'box without area', 'train.json: …'."""
        self._counts[reason] += 1
        if len(self._dropped[reason]) < self.EXAMPLES_KEPT:
            self._dropped[reason].append(where)

    @property
    def dropped(self) -> dict[str, int]:
        """{reason: how many}."""
        return dict(self._counts)

    def lines(self) -> list[str]:
        """For the banner: a line of counts, then one per reason."""
        text = f"{self.images} images"
        if self.boxes:  # Else they are known only as they are read.
            text += f" ({self.empty} without boxes), {self.boxes} boxes"
        lines = [text + (f", {self.crowd} crowd" if self.crowd else "")]
        for reason, count in self._counts.most_common():
            lines.append(f"{count} × {reason}, first: {'; '.join(self._dropped[reason])}")
        return lines + self.notes


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
