"""Masks of file-based sets: a class for every pixel, from mask files or from outlines of objects.

A mask is [H, W] uint8: 0 is background, 1 + class index, and `IGNORED_PIXEL` what isn't to be judged.
"""

import collections
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from effdet_jax.classes import BACKGROUND, IGNORED_PIXEL, MOST_MASK_CLASSES, ClassNames
from effdet_jax.data import transforms
from effdet_jax.data.example import DataError, DataReport, Example
from effdet_jax.data.fields import numbers
from effdet_jax.data.records import Annotation, Record, RecordSource

# (height, width) → mask of an image of that size.
Paint = Callable[[tuple[int, int]], np.ndarray]

WITHOUT_OUTLINE = "object without a polygon or a mask (its box is ignored)"
BROKEN_OUTLINE = "polygon or mask that can't be read (the object's box is ignored)"


class MaskedSource(RecordSource):
    """A `RecordSource` whose examples have masks.

    A mask file that can't be read makes its image unreadable.

    Args:
      records, class_names, images: see `RecordSource`.
      **options: its keywords.

    Raises:
      DataError: the set has boxes alone; and what `RecordSource` raises.
    """

    def __init__(
        self, records: Iterable[Record], class_names: ClassNames, images: str, **options: Any
    ):
        records = list(records)
        if not any(_has_mask(record) for record in records):
            raise DataError(
                f"{options['name']}: no image has a mask, and no object a polygon. COCO JSON with "
                "segmentation has, or a folder of images and one of masks (--config.data.source=masks)"
            )
        if len(class_names) > MOST_MASK_CLASSES:
            raise DataError(
                f"{options['name']}: {len(class_names)} classes; masks name {MOST_MASK_CLASSES}"
            )
        self._paints = _paints(records, options["report"])
        super().__init__(records, class_names, images, **options)

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        truth = example.truth
        if example.error:
            return example
        try:
            mask = self._paints[truth.image_id](truth.size)
        except (OSError, DataError) as error:
            return Example(np.zeros_like(example.image), truth, error=f"its mask: {error}")
        return Example(example.image, truth, example.dropped, mask=mask)


class MaskFile(NamedTuple):
    """A picture whose pixels are the mask's, in other numbers.

    Attributes:
      path: of it.
      meaning: [256] uint8, what each value of the file is in a mask.
    """

    path: str
    meaning: np.ndarray

    def __call__(self, size: tuple[int, int]) -> np.ndarray:
        """Raises `DataError` for a picture in colours, `OSError` for a broken one."""
        return transforms.resize_mask(self.meaning[read_values(self.path)], size)


def read_values(path: str) -> np.ndarray:
    """[H, W] uint8: the values of an indexed or grey picture, those above 255 as 255.

    Raises:
      DataError: it is in colours.
      OSError: it can't be read.
    """
    with Image.open(path) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise DataError(
                f"{path}: a mask of mode {image.mode}; masks are indexed or grey pictures, the value "
                "of a pixel its class"
            )
        return np.minimum(np.asarray(image), 255).astype(np.uint8)


class Outline(NamedTuple):
    """An object of an image.

    Attributes:
      value: of its pixels in the mask.
      shape: polygons [x, y, x, y, …] or an RLE dict; None for a box.
      box: yxyx, pixels.
    """

    value: int
    shape: list[np.ndarray] | dict[str, Any] | None
    box: Sequence[float]


class Outlines(NamedTuple):
    """The objects of an image, drawn when they are needed, smaller ones over larger ones.

    Attributes:
      outlines: of the objects.
      size: (height, width) they were made for; None for the image's own.
    """

    outlines: list[Outline]
    size: tuple[int, int] | None

    def __call__(self, size: tuple[int, int]) -> np.ndarray:
        made_for = self.size or tuple(size)
        mask = np.full(made_for, BACKGROUND, np.uint8)
        drawn = [(outline.value, _draw(outline, made_for)) for outline in self.outlines]
        for value, pixels in sorted(drawn, key=lambda one: -one[1].sum()):
            mask[pixels] = value
        return transforms.resize_mask(mask, size)


def _draw(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """[H, W] bool: the pixels of an object."""
    pixels = np.zeros(size, bool)
    if outline.shape is None:
        top, left, bottom, right = (max(round(side), 0) for side in outline.box)
        pixels[top:bottom, left:right] = True
    elif isinstance(outline.shape, dict):
        found = rle.decode(outline.shape).astype(bool)
        pixels[: found.shape[0], : found.shape[1]] = found[: size[0], : size[1]]
    else:
        parts = rle.frPyObjects([polygon.tolist() for polygon in outline.shape], *size)
        pixels = rle.decode(rle.merge(parts)).astype(bool)
    return pixels


def parse_shape(segmentation: Any) -> list[np.ndarray] | dict[str, Any] | None:
    """COCO's `segmentation` as an outline's shape; None if it is neither polygons nor a mask.

    VIA writes one flat list for one polygon. Polygons of less than three points have no area and
    are left out, if there are others.
    """
    try:
        if isinstance(segmentation, dict):
            if isinstance(segmentation["counts"], list):
                segmentation = rle.frPyObjects(segmentation, *segmentation["size"])
            rle.area(segmentation)  # Raises for what is none.
            return segmentation
        polygons = [segmentation] if numbers(segmentation) else segmentation
        found = [np.array(numbers(polygon), np.float64) for polygon in polygons]
    except (KeyError, TypeError, ValueError):
        return None
    found = [polygon for polygon in found if polygon.size >= 6 and polygon.size % 2 == 0]
    return found or None


def _has_mask(record: Record) -> bool:
    return bool(record.mask or any(one.segmentation for one in record.annotations))


def _paints(records: Sequence[Record], report: DataReport) -> dict[int | str, Paint]:
    """{image id: how its mask is made}; a file that is listed under two ids has one mask."""
    by_file = collections.defaultdict(list)
    for record in records:
        by_file[os.path.normpath(record.file_name)].append(record)
    paints: dict[int | str, Paint] = {}
    for some in by_file.values():
        outlines = [
            outline
            for record in some
            for annotation in record.annotations
            if (outline := _outline(annotation, report))
        ]
        paint = some[0].mask or Outlines(outlines, some[0].size)
        paints |= {record.image_id: paint for record in some}
    return paints


def _outline(annotation: Annotation, report: DataReport) -> Outline | None:
    """None for an object that `RecordSource` leaves out: without a class, or without a box."""
    if annotation.label is None or annotation.box is None:
        return None
    shape = parse_shape(annotation.segmentation) if annotation.segmentation else None
    if shape is None:
        kind = BROKEN_OUTLINE if annotation.segmentation else WITHOUT_OUTLINE
        report.drop(kind, annotation.where)
    ignored = shape is None or annotation.crowd
    return Outline(IGNORED_PIXEL if ignored else 1 + annotation.label, shape, annotation.box)
