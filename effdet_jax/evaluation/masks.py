"""Masks measured: intersection over union of every class, and their mean."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as rle

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data.example import Source
from effdet_jax.data.transforms import mask_from_canvas
from effdet_jax.detection.segment import Masks
from effdet_jax.evaluation.evaluation import Evaluation, finite

_COLUMNS = ("name", "iou", "accuracy", "true_pixels", "predicted_pixels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskEvaluation(Evaluation):
    """How predicted pixels and true ones agree, counted over all images in their own size.

    `results` have a row per image and class that is predicted or true there: COCO's RLE of the
    predicted pixels, and the counts behind the IoU. Ignored pixels are nowhere counted.

    Attributes:
      names: 'background' and the classes.
      shared, predicted, true: [1 + K] pixels: rightly predicted, predicted, true.
      num_images: evaluated.
    """

    names: Sequence[str]
    shared: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    num_images: int = 0

    criterion: ClassVar = "mIoU"
    results_file: ClassVar = "masks.json"
    unit: ClassVar = "masks"

    @property
    def iou(self) -> np.ndarray:
        """[1 + K] pixels in both over pixels in either; NaN of a class that is in neither."""
        return _divide(self.shared, self.predicted + self.true - self.shared)

    @property
    def summary(self) -> Mapping[str, float]:
        """'mIoU' over the classes that occur, background among them; 'pixel_accuracy'."""
        occurs = self.predicted + self.true > 0
        mean = float(self.iou[occurs].mean()) if occurs.any() else 0.0
        return {"mIoU": mean, "pixel_accuracy": float(self.shared.sum() / max(self.true.sum(), 1))}

    @property
    def per_class(self) -> Mapping[str, float]:
        return {name: float(iou) for name, iou in zip(self.names, self.iou) if not math.isnan(iou)}

    def lines(self) -> list[str]:
        if not self.true.sum():
            return ["no true pixels, no mIoU"]
        summary, width = self.summary, max(map(len, self.names))
        rows = [
            f"{name:{width}}  IoU {iou:.3f}  accuracy {accuracy:.3f}  {share:6.2%} of the pixels"
            for name, iou, accuracy, share in zip(
                self.names,
                self.iou,
                _divide(self.shared, self.true),
                self.true / self.true.sum(),
            )
            if not math.isnan(iou)
        ]
        return [f"mIoU {summary['mIoU']:.3f}  pixels {summary['pixel_accuracy']:.3f} right", *rows]

    def table(self) -> tuple[Sequence[str], list[Sequence[Any]]]:
        accuracy = _divide(self.shared, self.true)
        columns = (self.iou, accuracy, self.true, self.predicted)
        return _COLUMNS, list(zip(self.names, *(column.tolist() for column in columns)))

    def to_dict(self) -> dict[str, Any]:
        """'summary' has mIoU and pixel_accuracy, 'classes' the table's columns per class."""
        columns, rows = self.table()
        classes = {name: finite(dict(zip(columns[1:], numbers))) for name, *numbers in rows}
        return {**super().to_dict(), "classes": classes}


class MaskScorer:
    """See `evaluation.Scorer`."""

    criteria: ClassVar = ("mIoU",)
    max_boxes: ClassVar = 1  # The loss has no use for boxes; 0 would mean no loss.

    def __init__(self, source: Source):
        self._source, self._names = source, source.class_names
        self._ids = (None, *self._names.ids)

    def rows(self, index: int, found: Masks) -> list[dict[str, Any]]:
        """Compares in the image's own size."""
        example = self._source[index]
        predicted = mask_from_canvas(found.pixels, example.image.shape[:2])
        counts = example.mask != IGNORED_PIXEL
        rows = []
        for value in np.union1d(predicted, example.mask[counts]).tolist():
            drawn, true = predicted == value, example.mask == value
            outline = rle.encode(np.asfortranarray(drawn))
            rows.append(
                {
                    "image_id": example.truth.image_id,
                    "category_id": self._ids[value],
                    "category_name": self._names.of_masks[value],
                    "segmentation": {**outline, "counts": outline["counts"].decode()},
                    "shared": int(np.sum(drawn & true)),
                    "predicted": int(np.sum(drawn & counts)),
                    "true": int(np.sum(true)),
                }
            )
        return rows

    def evaluation(self, results: list[dict[str, Any]], **others: Any) -> MaskEvaluation:
        index_of = {identity: index for index, identity in enumerate(self._ids)}
        pixels = {
            name: np.zeros(len(self._ids), np.int64) for name in ("shared", "predicted", "true")
        }
        for row in results:
            for name, counted in pixels.items():
                counted[index_of[row["category_id"]]] += row[name]
        images = len({row["image_id"] for row in results})
        names = self._names.of_masks
        return MaskEvaluation(names=names, num_images=images, results=results, **pixels, **others)


def _divide(some: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, some / np.maximum(whole, 1), np.nan)
