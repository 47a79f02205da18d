"""What lies behind an AP: curves, the best score threshold, confused classes, every image.

All of it comes from one run of pycocotools: average precision and recall are its own arrays, and F1
counts its own matches at IoU 0.5. Only the confusion matrix, which pycocotools doesn't have, matches
boxes itself.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from effdet_jax.classes import ClassNames
from effdet_jax.evaluation.coco import METRICS

THRESHOLDS = np.arange(1, 100) / 100  # Score thresholds that are tried.
MOST_LINES = 20  # Classes that are printed.
MATCHED = 0.5  # Least IoU of a detection that finds an object.
# Of `COCOeval.params.areaRng`, and what they are called; sides of a square of that area.
SIZES = {1: "small (below 32 px)", 2: "medium (32 to 96 px)", 3: "large (above 96 px)"}


@dataclasses.dataclass(frozen=True)
class ClassAnalysis:
    """One class.

    Attributes:
      name: of the class.
      num_images: images with a box of it.
      num_boxes: its boxes, without crowds.
      ap, ap50, ar: pycocotools' average precision, that at IoU 0.5, and average recall of 100
        detections; -1 without a box.
      best_f1: the largest of `f1`, at IoU 0.5.
      threshold: the score threshold that gives it, the middle one of equals.
      recall: [101] pycocotools' recall thresholds.
      precision: [101] its precision there at IoU 0.5; -1 without a box.
      f1: [T] by `Analysis.thresholds`; 0 without a box.
    """

    name: str
    num_images: int
    num_boxes: int
    ap: float
    ap50: float
    ar: float
    best_f1: float
    threshold: float
    recall: np.ndarray
    precision: np.ndarray
    f1: np.ndarray


@dataclasses.dataclass(frozen=True)
class SizeAnalysis:
    """Objects of one of COCO's three sizes: boxes without crowds, pycocotools' AP and AR."""

    name: str
    num_boxes: int
    ap: float
    ar: float


@dataclasses.dataclass(frozen=True)
class ImageAnalysis:
    """One image, by its index in the source; counts are at `Analysis.threshold` and IoU 0.5.

    `f1` is 1 where there is nothing to find and nothing is found.
    """

    index: int
    num_boxes: int
    true_positives: int
    false_positives: int
    f1: float


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All of an evaluation but its twelve numbers.

    Attributes:
      thresholds: [T] score thresholds.
      f1: [T] of all classes' boxes together: 2 TP / (detections + boxes).
      threshold: the one with the best F1, the middle one of equals.
      best_f1: that F1; 0 where nothing is found at any threshold.
      classes: in the order of the class names.
      sizes: small, medium, large.
      confusion: [K + 1, K + 1] boxes by true class (row) and detected class (column), at
        `threshold`; the last row counts detections of nothing, the last column boxes not found.
      images: all, in the source's order.
    """

    thresholds: np.ndarray
    f1: np.ndarray
    threshold: float
    best_f1: float
    classes: tuple[ClassAnalysis, ...]
    sizes: tuple[SizeAnalysis, ...]
    confusion: np.ndarray
    images: tuple[ImageAnalysis, ...]

    def lines(self) -> list[str]:
        """The best F1, and a table of the classes with boxes if they are few, to print."""
        lines = [f"best F1 {self.best_f1:.3f} at score threshold {self.threshold:.2f}"]
        classes = [one for one in self.classes if one.num_boxes]
        if not classes or len(classes) > MOST_LINES:
            return lines
        head = "images", "boxes", "AP", "AP50", "AR", "best F1", "at score"
        lines.append(f"  {'class':24s}" + "".join(f"{title:>9s}" for title in head))
        for one in classes:
            numbers = (one.ap, one.ap50, one.ar, one.best_f1)
            lines.append(
                f"  {one.name:24s}{one.num_images:9d}{one.num_boxes:9d}"
                + "".join(f"{number:9.3f}" for number in numbers)
                + (f"{one.threshold:9.2f}" if one.best_f1 else f"{'-':>9s}")
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, by the attributes' names."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.round(value, 6).tolist()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def analyse(run: COCOeval, class_names: ClassNames) -> Analysis:
    """The analysis of a run of pycocotools, from `coco.run_coco`.

    Args:
      class_names: those whose ids the run's categories are.
    """
    boxes, found = _true_boxes(run, class_names), _detections(run, class_names)
    f1 = f1_curve(found.score, found.correct, len(boxes.label))
    threshold, best_f1 = _best(f1)
    return Analysis(
        THRESHOLDS,
        f1,
        threshold,
        best_f1,
        tuple(_classes(run, class_names, boxes, found)),
        tuple(_sizes(run)),
        _confusion(run, class_names, threshold),
        tuple(_images(run, boxes, found, threshold)),
    )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """[n] arrays, a row per box: image and class by index; of detections score and correctness."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))


def _index_of_image(run: COCOeval) -> dict[int, int]:
    """{pycocotools' number: index in the source}."""
    return {image["id"]: index for index, image in enumerate(run.cocoGt.dataset["images"])}


def _true_boxes(run: COCOeval, class_names: ClassNames) -> _Rows:
    """Ground truth without crowds."""
    index_of = _index_of_image(run)
    label_of = class_names.index_of_id()
    rows = [row for row in run.cocoGt.dataset["annotations"] if not row["iscrowd"]]
    return _Rows(
        np.array([index_of[row["image_id"]] for row in rows], int),
        np.array([label_of[row["category_id"]] for row in rows], int),
    )


def _detections(run: COCOeval, class_names: ClassNames) -> _Rows:
    """Detections as pycocotools matched them at IoU 0.5; those in crowds are left out."""
    index_of, num_images = _index_of_image(run), len(run.params.imgIds)
    all_sizes, label_of = len(run.params.areaRng), class_names.index_of_id()
    images, labels, scores, correct = [], [], [], []
    for number, category in enumerate(run.params.catIds):
        start = number * all_sizes * num_images  # [class, area range, image]
        label = label_of[category]
        for one in run.evalImgs[start : start + num_images]:
            if one is None or not one["dtScores"]:
                continue
            counts = ~np.asarray(one["dtIgnore"][0], bool)
            scores.append(np.asarray(one["dtScores"])[counts])
            correct.append(one["dtMatches"][0][counts] > 0)
            images.append(np.full(len(scores[-1]), index_of[one["image_id"]]))
            labels.append(np.full(len(scores[-1]), label))
    if not scores:
        return _Rows(np.zeros(0, int), np.zeros(0, int))
    return _Rows(*(np.concatenate(arrays) for arrays in (images, labels, scores, correct)))


def f1_curve(scores: np.ndarray, correct: np.ndarray, num_boxes: int) -> np.ndarray:
    """F1 by score threshold: [T] for the T of `THRESHOLDS`.

    Args:
      scores: [n] of detections.
      correct: [n] bool, whether each has found a box of its own.
      num_boxes: to be found.
    """
    detected, right = _at_least(scores), _at_least(scores[correct])
    return 2 * right / np.maximum(detected + num_boxes, 1)


def _at_least(scores: np.ndarray) -> np.ndarray:
    """[T] how many scores reach each of `THRESHOLDS`."""
    return len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS, side="left")


def _best(f1: np.ndarray) -> tuple[float, float]:
    """(threshold, F1): the middle of equals is the farthest from where it gets worse."""
    best = np.flatnonzero(f1 == f1.max())
    return float(THRESHOLDS[best[len(best) // 2]]), float(f1.max())


def _classes(run: COCOeval, class_names: ClassNames, boxes: _Rows, found: _Rows):
    column = {category: number for number, category in enumerate(run.params.catIds)}
    for label, (name, category) in enumerate(zip(class_names.names, class_names.ids)):
        own, of_class = boxes.image[boxes.label == label], found.label == label
        f1 = f1_curve(found.score[of_class], found.correct[of_class], len(own))
        threshold, best_f1 = _best(f1)
        precision = run.eval["precision"][:, :, column[category], 0, -1]  # [IoU, recall]
        yield ClassAnalysis(
            name,
            len(np.unique(own)),
            len(own),
            ap=float(np.mean(precision)),
            ap50=float(np.mean(precision[0])),
            ar=float(np.mean(run.eval["recall"][:, column[category], 0, -1])),
            best_f1=best_f1,
            threshold=threshold,
            recall=np.array(run.params.recThrs),
            precision=np.array(precision[0]),
            f1=f1,
        )


def _sizes(run: COCOeval):
    summary = dict(zip(METRICS, run.stats))
    areas = [row["area"] for row in run.cocoGt.dataset["annotations"] if not row["iscrowd"]]
    for (number, name), letter in zip(SIZES.items(), "sml"):
        low, high = run.params.areaRng[number]  # Both belong to it, as in pycocotools.
        count = sum(low <= area <= high for area in areas)
        yield SizeAnalysis(
            name, count, float(summary[f"AP{letter}"]), float(summary[f"AR{letter}"])
        )


def _images(run: COCOeval, boxes: _Rows, found: _Rows, threshold: float):
    count = len(run.cocoGt.dataset["images"])
    shown = found.score >= threshold
    num_boxes = np.bincount(boxes.image, minlength=count)
    right = np.bincount(found.image[shown & found.correct], minlength=count)
    wrong = np.bincount(found.image[shown & ~found.correct], minlength=count)
    for index in range(count):
        known, hits, misses = int(num_boxes[index]), int(right[index]), int(wrong[index])
        total = known + hits + misses
        yield ImageAnalysis(index, known, hits, misses, 2 * hits / total if total else 1.0)


def _confusion(run: COCOeval, class_names: ClassNames, threshold: float) -> np.ndarray:
    """[K + 1, K + 1] counts, see `Analysis.confusion`.

    Detections of all classes choose in the order of their scores: each takes the box that it
    overlaps most, of whatever class, among those that none has taken, if their IoU is at least 0.5.
    Of boxes that it overlaps alike it takes one of its own class. Crowds can't be taken; a detection
    that takes nothing and lies in a crowd by half its area or more isn't counted.
    """
    label_of = class_names.index_of_id()
    truth, found = collections.defaultdict(list), collections.defaultdict(list)
    for row in run.cocoGt.dataset["annotations"]:
        truth[row["image_id"]].append(row)
    for row in run.cocoDt.dataset["annotations"]:
        if row["score"] >= threshold:
            found[row["image_id"]].append(row)
    confusion = np.zeros((len(class_names) + 1,) * 2, int)
    for image in truth.keys() | found.keys():
        true_labels = np.array([label_of[row["category_id"]] for row in truth[image]], int)
        crowd = np.array([row["iscrowd"] for row in truth[image]], bool)
        one = sorted(found[image], key=lambda row: -row["score"])
        labels = [label_of[row["category_id"]] for row in one]
        overlap = _overlap(one, truth[image])
        free = ~crowd
        for label, row in zip(labels, overlap):
            allowed = np.where(free & (row >= MATCHED), row + 1e-9 * (true_labels == label), 0.0)
            if np.max(allowed, initial=0.0) > 0:
                taken = int(np.argmax(allowed))
                free[taken] = False
                confusion[true_labels[taken], label] += 1
            elif not np.any(row[crowd] >= MATCHED):
                confusion[-1, label] += 1
        np.add.at(confusion, (true_labels[free], -1), 1)
    return confusion


def _overlap(found: Sequence[Mapping], truth: Sequence[Mapping]) -> np.ndarray:
    """[detections, boxes] IoU; for crowds the share of the detection's area."""
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    bboxes = ([row["bbox"] for row in rows] for rows in (found, truth))
    return mask.iou(*bboxes, [int(row["iscrowd"]) for row in truth])
