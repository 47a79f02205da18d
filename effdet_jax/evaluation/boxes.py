"""Boxes measured: COCO's metrics of detections, and what lies behind them."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from effdet_jax.data.example import Source, coco_dataset
from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.analysis import analyse
from effdet_jax.evaluation.coco import CocoMetrics, coco_metrics, run_coco
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.inference.result import coco_results

LOW_AP = 0.01
_COLUMNS = ("name", "num_images", "num_boxes", "ap", "ap50", "ar", "best_f1", "threshold")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxEvaluation(Evaluation):
    """Metrics of detections; `results` are COCO result rows with the data set's own ids.

    Attributes:
      metrics: COCO's.
    """

    metrics: CocoMetrics

    criterion: ClassVar = "AP"
    results_file: ClassVar = "detections.json"
    unit: ClassVar = "detections"

    @property
    def num_images(self) -> int:
        return self.metrics.num_images

    @property
    def summary(self) -> Mapping[str, float]:
        return self.metrics.summary

    @property
    def per_class(self) -> Mapping[str, float]:
        return self.metrics.per_class

    def lines(self) -> list[str]:
        table = self.analysis.lines() if self.analysis and self.metrics.num_boxes else []
        return [*self.metrics.lines(), *table]

    def table(self) -> tuple[Sequence[str], list[Sequence[Any]]]:
        rows = [[getattr(one, column) for column in _COLUMNS] for one in self.analysis.classes]
        return _COLUMNS, rows

    def to_dict(self) -> dict[str, Any]:
        """'summary' has COCO's twelve, 'loss' the total and parts, 'score_threshold' is the one of the
        best F1 or null, 'analysis' is of `analysis.Analysis.to_dict`."""
        return {
            **super().to_dict(),
            "num_boxes": self.metrics.num_boxes,
            "score_threshold": self.score_threshold,
            "analysis": self.analysis.to_dict(),
        }

    @property
    def score_threshold(self) -> float | None:
        """The one of the best F1, None where nothing is found at any."""
        found = self.analysis is not None and self.analysis.best_f1 > 0
        return self.analysis.threshold if found else None

    def scalars(self) -> dict[str, float]:
        f1 = {} if self.score_threshold is None else {"eval/F1": self.analysis.best_f1}
        return super().scalars() | f1

    def is_low(self, best: float) -> bool:
        """Whether the AP is next to nothing, or below half of the best one so far."""
        return bool(self.metrics.num_boxes) and (self.value < LOW_AP or self.value < best / 2)


class BoxScorer:
    """See `evaluation.Scorer`."""

    criteria: ClassVar = ("AP", "AP50", "AR")

    def __init__(self, source: Source):
        self._class_names = source.class_names
        self._dataset = coco_dataset(source.ground_truth(), source.class_names)
        self._ids = [image["id"] for image in self._dataset["images"]]
        self.max_boxes = most_boxes(self._dataset)

    def rows(self, index: int, found: Detections) -> list[dict[str, Any]]:
        real = found[found.valid]
        return coco_results(
            self._ids[index], real.boxes, real.scores, real.labels, self._class_names
        )

    def evaluation(self, results: list[dict[str, Any]], **others: Any) -> BoxEvaluation:
        run = run_coco(self._dataset, results)
        analysis = analyse(run, self._class_names)
        return BoxEvaluation(
            metrics=coco_metrics(run), analysis=analysis, results=results, **others
        )


def most_boxes(dataset: Mapping[str, Any]) -> int:
    """The most boxes that an image of a COCO-JSON dict has, without crowds."""
    rows = (row["image_id"] for row in dataset["annotations"] if not row["iscrowd"])
    return max(collections.Counter(rows).values(), default=0)
