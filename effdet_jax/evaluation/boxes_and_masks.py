"""Boxes and masks of one model measured: COCO's metrics, and the mean IoU beside them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from effdet_jax.data.example import Source
from effdet_jax.detection.retina_segment import DetectionsAndMasks
from effdet_jax.evaluation.boxes import BoxEvaluation, BoxScorer
from effdet_jax.evaluation.masks import MaskEvaluation, MaskScorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointEvaluation(BoxEvaluation):
    """A `BoxEvaluation` with one of masks.

    Attributes:
      masks: what is measured of masks, with rows of their own.
    """

    masks: MaskEvaluation

    @property
    def summary(self) -> Mapping[str, float]:
        return {**super().summary, **self.masks.summary}

    def lines(self) -> list[str]:
        return [*super().lines(), *self.masks.lines()]

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "masks": self.masks.to_dict()}


class JointScorer:
    """See `evaluation.Scorer`."""

    criteria: ClassVar = (*BoxScorer.criteria, *MaskScorer.criteria)

    def __init__(self, source: Source):
        self._boxes, self._masks = BoxScorer(source), MaskScorer(source)
        self.max_boxes = self._boxes.max_boxes

    def rows(self, index: int, found: DetectionsAndMasks) -> list[dict[str, Any]]:
        boxes = self._boxes.rows(index, found.detections)
        return boxes + self._masks.rows(index, found.masks)

    def evaluation(self, results: list[dict[str, Any]], **others: Any) -> JointEvaluation:
        """Rows with a `bbox` are boxes', the others masks'."""
        boxes = [row for row in results if "bbox" in row]
        masks = self._masks.evaluation([row for row in results if "bbox" not in row])
        found = self._boxes.evaluation(boxes, **others)
        fields = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
        return JointEvaluation(**fields, masks=masks)
