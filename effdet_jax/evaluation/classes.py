"""Classes of images measured: top-1 and top-5 accuracy."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import GroundTruth, Source
from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.evaluation import Evaluation, finite

SHOWN = 10  # Classes in the printed table, those that are recognised least.


@dataclasses.dataclass(frozen=True)
class ClassAccuracy:
    """What became of the images of a class.

    Attributes:
      name: of the class.
      num_images: that have it.
      top1, top5: shares of them; not a number where there are none.
      taken_for: the class that they are most often taken for instead; '' for none.
    """

    name: str
    num_images: int
    top1: float
    top5: float
    taken_for: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassEvaluation(Evaluation):
    """Accuracies; `results` are a row per image: image_id, category_ids and scores, best first.

    Attributes:
      top1, top5: shares of the images whose class is the most probable, or among the five most
        probable ones; of images without a class there is nothing to say. 0 if there are none.
      num_labelled: images that have a class.
      classes: of every class.
    """

    top1: float
    top5: float
    num_labelled: int
    classes: Sequence[ClassAccuracy]

    criterion: ClassVar = "top1"
    results_file: ClassVar = "classified.json"
    unit: ClassVar = "predictions"

    @property
    def num_images(self) -> int:
        return self.num_labelled

    @property
    def summary(self) -> Mapping[str, float]:
        return {"top1": self.top1, "top5": self.top5}

    @property
    def per_class(self) -> Mapping[str, float]:
        return {one.name: one.top1 for one in self.classes if one.num_images}

    @property
    def score_threshold(self) -> float:
        """All classes that are predicted are worth showing."""
        return 0.0

    def lines(self) -> list[str]:
        known = [one for one in self.classes if one.num_images]
        worst = sorted(known, key=lambda one: one.top1)[:SHOWN]
        width = max((len(one.name) for one in worst), default=0)
        rows = [
            f"{one.name:{width}}  {one.num_images:6d}  {one.top1:.3f}  {one.top5:.3f}  {one.taken_for}"
            for one in worst
        ]
        title = f"{'class':{width}}  images  top1   top5   most often taken for"
        more = [f"and {len(known) - SHOWN} classes that are recognised better"]
        return [
            f"top1 {self.top1:.4f}  top5 {self.top5:.4f}",
            *([title, *rows] if rows else []),
            *(more if len(known) > SHOWN else []),
        ]

    def table(self) -> tuple[Sequence[str], list[Sequence[Any]]]:
        columns = [field.name for field in dataclasses.fields(ClassAccuracy)]
        return columns, [dataclasses.astuple(one) for one in self.classes]

    def to_dict(self) -> dict[str, Any]:
        """'summary' has top1 and top5, 'classes' a row of `ClassAccuracy` for each class."""
        rows = [dataclasses.asdict(one) for one in self.classes]
        rows = [row | finite({name: row[name] for name in ("top1", "top5")}) for row in rows]
        return {**super().to_dict(), "classes": rows}


class ClassScorer:
    """See `evaluation.Scorer`."""

    criteria: ClassVar = ("top1", "top5")

    def __init__(self, source: Source):
        truths = list(source.ground_truth())
        self._class_names = source.class_names
        self._ids = [truth.image_id for truth in truths]
        self._labels = {truth.image_id: largest(truth) for truth in truths}
        self.max_boxes = max((len(truth.boxes) for truth in truths), default=0)

    def rows(self, index: int, found: Detections) -> list[dict[str, Any]]:
        ids = [self._class_names.ids[label] for label in found.labels.tolist()]
        row = {"image_id": self._ids[index], "category_ids": ids, "scores": found.scores.tolist()}
        return [row]

    def evaluation(
        self, results: list[dict[str, Any]], *, first: Mapping[int, Detections], **others: Any
    ) -> ClassEvaluation:
        names = self._class_names
        index_of_id = names.index_of_id()
        found = {
            row["image_id"]: [index_of_id[id_] for id_ in row["category_ids"]] for row in results
        }
        labelled = {image: label for image, label in self._labels.items() if label >= 0}
        # The place of the true class among those found; images that can't be read have none.
        hits = np.array(
            [
                (label, *((label in found.get(image, [])[:top]) for top in (1, 5)))
                for image, label in labelled.items()
            ],
            int,
        ).reshape(-1, 3)
        mistaken = collections.defaultdict(collections.Counter)
        for image, label in labelled.items():
            best = found.get(image, [label])[0]
            if best != label:
                mistaken[label][best] += 1
        classes = [
            _accuracy(names, label, hits[hits[:, 0] == label], mistaken[label])
            for label in range(len(names))
        ]
        _, top1, top5 = hits.mean(axis=0) if len(hits) else (0.0, 0.0, 0.0)
        return ClassEvaluation(
            top1=float(top1),
            top5=float(top5),
            num_labelled=len(hits),
            classes=classes,
            results=results,
            first={index: one[:1] for index, one in first.items()},  # One name on a picture.
            **others,
        )


def _accuracy(
    names: ClassNames, label: int, hits: np.ndarray, mistaken: collections.Counter
) -> ClassAccuracy:
    _, top1, top5 = hits.mean(axis=0) if len(hits) else (np.nan, np.nan, np.nan)
    taken_for = names.names[mistaken.most_common(1)[0][0]] if mistaken else ""
    return ClassAccuracy(names.names[label], len(hits), float(top1), float(top5), taken_for)


def largest(truth: GroundTruth) -> int:
    """Class index of an image's largest box that is no crowd, -1 if it has none."""
    heights, widths = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T
    areas = np.where(truth.crowd, -1.0, heights * widths)
    return int(truth.labels[np.argmax(areas)]) if (areas >= 0).any() else -1
