"""The checks of file-based sets, the same for every format: records become a `Source`.

A format's reader only finds and parses its files and yields a `Record` per image. Bad boxes and files
are left out here, counted and named.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import (
    DataError,
    DataReport,
    Example,
    GroundTruth,
    make_truth,
    unreadable,
)
from effdet_jax.data.images import decode_image, image_size
from effdet_jax.data.locate import Locator

# Opening every file of a larger set at the start would take longer than it is worth.
HEADERS_CHECKED = 20_000
MISSING_TOLERATED = 0.05


class Annotation(NamedTuple):
    """A box as the data set gives it, right or wrong.

    Attributes:
      box: (ymin, xmin, ymax, xmax), pixels of the image; None if it can't be parsed.
      label: class index; None if the data set doesn't list the category.
      where: its id and its values as they stand in the file, for messages.
      crowd: left out of training and ignored by COCO's evaluation.
      area: of the object, square pixels; None takes the box's.
    """

    box: Sequence[float] | None
    label: int | None
    where: str
    crowd: bool = False
    area: float | None = None


class Record(NamedTuple):
    """An image as the data set gives it.

    Attributes:
      image_id: the data set's own id.
      file_name: relative to the images folder; another spelling of it is found (`data.locate`).
      size: (height, width), pixels; None if the data set doesn't say: the file does then.
      annotations: its boxes.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int] | None
    annotations: Sequence[Annotation]


class RecordSource:
    """Images and boxes of checked records, a `data.example.Source`.

    Args:
      records: one per image.
      class_names: what the labels mean.
      images: folder that the file names are relative to.
      name: path of the annotations, for messages.
      report: counts what the reader has left out; what is left out here is added.
      strict: any bad box or file is an error.
      needs_boxes: images that are listed without any box are an error.

    Attributes:
      paths: image files, in order.

    Raises:
      DataError: nothing usable is in the records, or too many images are missing.
    """

    endless = False

    def __init__(
        self,
        records: Iterable[Record],
        class_names: ClassNames,
        images: str,
        *,
        name: str,
        report: DataReport | None = None,
        strict: bool = False,
        needs_boxes: bool = True,
    ):
        self.class_names, self.images, self.name = class_names, images, name
        self.report = DataReport() if report is None else report
        files = Locator(images)
        records = _located(list(records), files, self.report)
        needs_boxes |= any(record.annotations for record in records)
        self._truths = [(record.file_name, self._truth(record)) for record in records]
        self._check_files(files)
        self.paths = [os.path.join(images, file_name) for file_name, _ in self._truths]
        problems = self.report.lines()[1:]
        if strict and self.report.dropped:
            raise DataError(f"{name}: " + "\n  ".join(problems))
        if not self._truths:
            raise DataError(f"{name}: no usable images; " + "; ".join(problems))
        self._count(needs_boxes)

    def __len__(self) -> int:
        return len(self._truths)

    def __getitem__(self, index: int) -> Example:
        truth = self._truths[index][1]
        try:
            with open(self.paths[index], "rb") as file:
                image = decode_image(file.read(), truth.size)
        except (OSError, DataError) as error:
            return unreadable(truth.image_id, truth.size, str(error))
        return Example(image, truth)

    def describe(self, index: int) -> str:
        name, truth = self._truths[index]
        return _describe(truth.image_id, name)

    def ground_truth(self) -> Iterator[GroundTruth]:
        return (truth for _, truth in self._truths)

    def _truth(self, record: Record) -> GroundTruth:
        """The boxes that can be used; the others are counted. An unknown size is (0, 0)."""
        where = f"{os.path.basename(self.name)}: {_describe(record.image_id, record.file_name)}"
        rows = []
        for annotation in record.annotations:
            problem = _problem(annotation, record.size, len(self.class_names))
            if problem:
                self.report.drop(problem, f"{where}: {annotation.where}")
                continue
            ymin, xmin, ymax, xmax = annotation.box
            if record.size and (
                min(ymin, xmin) < -1 or ymax > record.size[0] + 1 or xmax > record.size[1] + 1
            ):
                reason = "box reaching out of its image (cut there)"
                self.report.drop(reason, f"{where}: {annotation.where}")
            area = annotation.area or (ymax - ymin) * (xmax - xmin)
            rows.append((annotation.box, annotation.label, annotation.crowd, float(area)))
        return make_truth(record.image_id, record.size or (0, 0), rows)

    def _check_files(self, files: Locator):
        """Leaves out images whose file is missing, empty or no image; learns sizes not given."""
        listed = len(self._truths)
        headers = listed <= HEADERS_CHECKED
        sizes = [self._size(name, truth, files, headers) for name, truth in self._truths]
        if not headers:
            self.report.notes.append(
                f"file headers not checked: more than {HEADERS_CHECKED} images"
            )
        missing = sizes.count(None)
        if missing > MISSING_TOLERATED * listed:
            raise DataError(
                f"{self.name}: {missing} of {listed} images can't be read in '{self.images}': "
                + "; ".join(self.report.lines()[1:])
                + ". If the images lie elsewhere, name their folder: "
                "--config.data.train_images=… / .val_images=…"
            )
        self._truths = [
            (name, dataclasses.replace(truth, size=size))
            for (name, truth), size in zip(self._truths, sizes)
            if size is not None
        ]

    def _size(
        self, name: str, truth: GroundTruth, files: Locator, headers: bool
    ) -> tuple[int, int] | None:
        """An image's (height, width), from its file if need be; None if the file can't be used."""
        size, where = truth.size, _describe(truth.image_id, name)
        if not files.holds(name):
            self.report.drop("image file is missing", where)
            return None
        if not headers and all(size):
            return size
        try:
            found = image_size(os.path.join(self.images, name))
        except DataError as error:
            self.report.drop("image file can't be read", f"{where}: {error}")
            return None
        if not all(size):
            return found
        if found in (size, size[::-1]):  # Turned by EXIF; which of the two, decoding decides.
            return size
        self.report.drop(
            "image of another size than its annotations say (the file counts)",
            f"{where}: {found[1]}×{found[0]}, annotations say {size[1]}×{size[0]}",
        )
        return found

    def _count(self, needs_boxes: bool):
        report, truths = self.report, list(self.ground_truth())
        report.images = len(truths)
        report.boxes = sum(len(truth.boxes) for truth in truths)
        report.crowd = sum(int(truth.crowd.sum()) for truth in truths)
        report.empty = sum(not len(truth.boxes) for truth in truths)
        if not report.boxes and needs_boxes:
            raise DataError(
                f"{self.name}: none of its {report.images} images has a usable box; "
                + "; ".join(report.lines())
            )
        if 0 < report.crowd == report.boxes:
            report.notes.append("every box is a crowd (iscrowd: 1): nothing can be learned")


def _located(records: list[Record], files: Locator, report: DataReport) -> list[Record]:
    """The records with the names that their files have here."""
    found = files.find_all(record.file_name for record in records)
    if found:
        (name, path), *_ = sorted(found.items())
        text = f"{len(found)} images found under another name, first: '{name}' is '{path}'"
        report.notes.append(text)
    return [r._replace(file_name=found.get(r.file_name, r.file_name)) for r in records]


def _describe(image_id: int | str, file_name: str) -> str:
    return f"image {image_id} '{file_name}'"


def _problem(annotation: Annotation, size: tuple[int, int] | None, num_classes: int) -> str:
    """Why a box can't be used, '' if it can."""
    if annotation.label is None or not 0 <= annotation.label < num_classes:
        return "box of a category that isn't listed"
    if not _is_box(annotation.box):
        return "box that isn't four finite numbers"
    ymin, xmin, ymax, xmax = annotation.box
    if xmax <= xmin or ymax <= ymin:
        return "box without width or height"
    if size and (xmin >= size[1] or ymin >= size[0] or xmax <= 0 or ymax <= 0):
        return "box outside its image"
    return ""


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, tuple | list)
        and len(box) == 4
        and all(isinstance(side, Real) and math.isfinite(side) for side in box)
    )
