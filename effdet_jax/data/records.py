"""The checks of file-based sets, the same for every format: records become a `Source`.

A format's reader only finds and parses its files and yields a `Record` per image. Bad boxes and files
are left out here, counted and named.
"""

import collections
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.data import check, headers
from effdet_jax.data.example import (
    DataError,
    DataReport,
    Example,
    GroundTruth,
    make_truth,
    unreadable,
)
from effdet_jax.data.images import Header, Intensity, decode_image, measure_intensity
from effdet_jax.data.locate import Locator

CUT = "box reaching out of its image (cut there)"
_LEAST_SIDE = 1 - 1e-3  # Pixels; a side of one pixel may have been rounded.


class Annotation(NamedTuple):
    """A box as the data set gives it, right or wrong.

    Attributes:
      box: (ymin, xmin, ymax, xmax), pixels of the image; None if it can't be parsed.
      label: class index; None if the data set doesn't list the category.
      where: its id and its values as they stand in the file, for messages.
      crowd: left out of training and ignored by COCO's evaluation.
      area: of the object, square pixels; None takes the box's.
      segmentation: its outline as COCO writes it, polygons or RLE; None if it isn't known.
    """

    box: Sequence[float] | None
    label: int | None
    where: str
    crowd: bool = False
    area: float | None = None
    segmentation: Any = None


class Record(NamedTuple):
    """An image as the data set gives it.

    Attributes:
      image_id: the data set's own id.
      file_name: relative to the images folder; another spelling of it is found (`data.locate`).
      size: (height, width), pixels; None if the data set doesn't say: the file does then.
      annotations: its boxes.
      mask: makes its mask, see `data.masks`; None for that of the annotations' outlines.
    """

    image_id: int | str
    file_name: str
    size: tuple[int, int] | None
    annotations: Sequence[Annotation]
    mask: Any = None


class RecordSource:
    """Images and boxes of checked records, a `data.example.Source`.

    Boxes are judged by the size of the picture, whatever the record says, and cut to it.

    Args:
      records: one per image.
      class_names: what the labels mean.
      images: folder that the file names are relative to.
      name: path of the annotations, for messages.
      report: counts what the reader has left out; what is left out here is added.
      strict: any bad box or file is an error.
      tolerate: so many faults that they can't be chance are none.
      rescale: boxes made for another size of the image are scaled to the file's.
      intensity: (low, high) of 16-bit and float images, see `decode_image`; () measures it.
      needs_boxes: images that are listed without any box are an error.

    Attributes:
      paths: image files, in order.

    Raises:
      DataError: nothing usable is in the records, or too many are faulty.
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
        tolerate: bool = False,
        rescale: bool = False,
        intensity: Intensity = (),
        needs_boxes: bool = True,
    ):
        self.class_names, self.images, self.name = class_names, images, name
        self.report = DataReport() if report is None else report
        files = Locator(images)
        listed = self._merged(_located(list(records), files, self.report))
        needs_boxes |= any(record.annotations for record in listed)
        listed, found = self._readable(listed, files)
        listed = self._settled(listed, found, rescale=rescale)
        self._truths = [(record.file_name, self._truth(record)) for record in listed]
        self.paths = [os.path.join(images, file_name) for file_name, _ in self._truths]
        check.count(self)
        check.suspect_shares(self.report, sum(len(record.annotations) for record in listed))
        self._refuse(strict=strict, tolerate=tolerate, needs_boxes=needs_boxes)
        self.intensity = intensity or self._measured_intensity(found)

    def __len__(self) -> int:
        return len(self._truths)

    def __getitem__(self, index: int) -> Example:
        truth = self._truths[index][1]
        try:
            with open(self.paths[index], "rb") as file:
                image = decode_image(file.read(), truth.size, self.intensity)
        except (OSError, DataError) as error:
            return unreadable(truth.image_id, truth.size, str(error))
        return Example(image, truth)

    def describe(self, index: int) -> str:
        name, truth = self._truths[index]
        return _describe(truth.image_id, name)

    def ground_truth(self) -> Iterator[GroundTruth]:
        return (truth for _, truth in self._truths)

    def _merged(self, records: Iterable[Record]) -> list[Record]:
        """The records with one per file: boxes of a file's other ids go to its first."""
        by_file: dict[str, Record] = {}
        for record in records:
            file = os.path.normpath(record.file_name)
            first = by_file.setdefault(file, record)
            if first is not record:
                self.report.drop(
                    "file listed under two ids (its boxes are put together)",
                    f"{_describe(record.image_id, record.file_name)} is image {first.image_id}",
                )
                boxes = [*first.annotations, *record.annotations]
                by_file[file] = first._replace(annotations=boxes)
        return list(by_file.values())

    def _readable(
        self, records: Sequence[Record], files: Locator
    ) -> tuple[list[Record], dict[int, Header]]:
        """Records whose file is there and an image, and the headers that were read, by position."""
        missing = set()
        for number, record in enumerate(records):
            if not files.holds(record.file_name):
                missing.add(number)
                where = _describe(record.image_id, record.file_name)
                self.report.drop("image file is missing", where)
        found = self._headers(records, missing)
        broken = {number for number, header in found.items() if isinstance(header, DataError)}
        for number in sorted(broken):
            where = _describe(records[number].image_id, records[number].file_name)
            self.report.drop("image file can't be read", f"{where}: {found[number]}")
        lost = len(missing) + len(broken)
        if lost > headers.SHARE_BY_CHANCE * len(records):
            self.report.stops.append(
                f"{lost} of {len(records)} images can't be read in '{self.images}'. If the images lie "
                "elsewhere, name their folder: --config.data.train_images=… / .val_images=…"
            )
        usable = [number for number in range(len(records)) if number not in missing | broken]
        kept = {new: found[old] for new, old in enumerate(usable) if old in found}
        self.report.modes = dict(collections.Counter(header.mode for header in kept.values()))
        return [records[number] for number in usable], kept

    def _headers(
        self, records: Sequence[Record], missing: set[int]
    ) -> dict[int, Header | DataError]:
        """Of all files of a set that isn't too large, else of some and of those that are needed."""

        def read(numbers: Iterable[int]) -> dict[int, Header | DataError]:
            wanted = [number for number in numbers if number not in missing]
            paths = {n: os.path.join(self.images, records[n].file_name) for n in wanted}
            return headers.read_headers(paths)

        everyone = range(len(records))
        step = -(-len(records) // headers.HEADERS_CHECKED) or 1
        found = read(n for n in everyone if not n % step or not records[n].size)
        if step > 1 and any(
            isinstance(header, Header) and records[n].size not in (header.size, header.stored, None)
            for n, header in found.items()
        ):
            found |= read(n for n in everyone if n not in found)
        if unread := len(records) - len(missing) - len(found):
            self.report.notes.append(
                f"file headers checked of {len(found)} images, not of {unread}"
            )
        return found

    def _settled(
        self, records: Sequence[Record], found: Mapping[int, Header], *, rescale: bool
    ) -> list[Record]:
        """Records with the true size of their images, their boxes in its pixels."""
        boxes = [
            np.array([a.box for a in record.annotations if _is_box(a.box)], float).reshape(-1, 4)
            for record in records
        ]
        sizes, factors = headers.settle_sizes(
            [record.size for record in records],
            found,
            boxes,
            [_describe(record.image_id, record.file_name) for record in records],
            self.report,
            rescale=rescale,
        )
        counts = [len(some) for some in boxes]
        boxes = [some * factors.get(number, 1.0) for number, some in enumerate(boxes)]
        if boxes:
            of_boxes = np.repeat(np.array(sizes, float), counts, axis=0)
            check.suspect_order(np.concatenate(boxes), of_boxes, self.report)
        settled = [record._replace(size=size) for record, size in zip(records, sizes)]
        for number, ratio in factors.items():
            scaled = [_scaled(annotation, ratio) for annotation in records[number].annotations]
            settled[number] = settled[number]._replace(annotations=scaled)
        return settled

    def _truth(self, record: Record) -> GroundTruth:
        """The boxes that can be used, cut to the image; the others are counted."""
        where = f"{os.path.basename(self.name)}: {_describe(record.image_id, record.file_name)}"
        rows, seen = [], set()
        for annotation in record.annotations:
            problem = _problem(annotation, record.size, len(self.class_names))
            key = (annotation.label, annotation.crowd, *(annotation.box or ()))
            if not problem and key in seen:
                problem = "box that is there twice"
            if problem:
                self.report.drop(problem, f"{where}: {annotation.where}")
                continue
            seen.add(key)
            cut = _cut(annotation.box, record.size)
            if max(abs(side - old) for side, old in zip(cut, annotation.box)) > 1:
                self.report.drop(CUT, f"{where}: {annotation.where}")
            area = _area(annotation.area, cut)
            rows.append((cut, annotation.label, annotation.crowd, area))
        return make_truth(record.image_id, record.size, rows)

    def _refuse(self, *, strict: bool, tolerate: bool, needs_boxes: bool):
        report, problems = self.report, self.report.lines()[1:]
        if strict and report.faults:
            raise DataError(f"{self.name}: " + "\n  ".join(problems))
        if report.stops and not (tolerate and (report.boxes or not needs_boxes)):
            raise check.stopped(self.name, report)
        if not report.images:
            raise DataError(f"{self.name}: no usable images; " + "; ".join(problems))
        if not report.boxes and needs_boxes:
            raise DataError(
                f"{self.name}: none of its {report.images} images has a usable box; "
                + "; ".join(report.lines())
            )

    def _measured_intensity(self, found: Mapping[int, Header]) -> Intensity:
        deep = [self.paths[number] for number, header in found.items() if header.deep]
        intensity = measure_intensity(deep)
        if intensity:
            low, high = intensity
            self.report.notes.append(
                f"{len(deep)} images of 16 bits or floats: {low:.6g} becomes black and {high:.6g} "
                f"white; to change it: --config.data.intensity='({low:.6g}, {high:.6g})'"
            )
        return intensity


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a `RecordSource` that say how it checks, from the values of `config.data`."""
    return {knob: options[knob] for knob in ("strict", "tolerate", "rescale", "intensity")}


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


def _problem(annotation: Annotation, size: tuple[int, int], num_classes: int) -> str:
    """Why a box can't be used, '' if it can."""
    if annotation.label is None or not 0 <= annotation.label < num_classes:
        return check.NOT_LISTED
    if not _is_box(annotation.box):
        return check.NO_NUMBERS
    ymin, xmin, ymax, xmax = annotation.box
    if xmax <= xmin or ymax <= ymin:
        return check.NO_AREA
    if xmin >= size[1] or ymin >= size[0] or xmax <= 0 or ymax <= 0:
        return check.OUTSIDE
    ymin, xmin, ymax, xmax = _cut(annotation.box, size)
    return check.TINY if min(ymax - ymin, xmax - xmin) < _LEAST_SIDE else ""


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, tuple | list)
        and len(box) == 4
        and all(
            isinstance(side, Real) and not isinstance(side, bool) and math.isfinite(side)
            for side in box
        )
    )


def _scaled(annotation: Annotation, factors: np.ndarray) -> Annotation:
    """The annotation with its box times `factors`, [4] for yxyx."""
    if not _is_box(annotation.box):
        return annotation
    box = [float(side) for side in np.multiply(annotation.box, factors)]
    area = annotation.area and annotation.area * float(factors[0] * factors[1])
    return annotation._replace(box=box, area=area)


def _cut(box: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    return tuple(min(max(side, 0.0), limit) for side, limit in zip(box, (*size, *size)))


def _area(said: Any, box: Sequence[float]) -> float:
    """Of an object: what its annotation says, where that can be, but no more than its box."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    possible = isinstance(said, Real) and not isinstance(said, bool) and 0 < said < math.inf
    return min(float(said), whole) if possible else whole
