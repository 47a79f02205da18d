"""Why an AP is next to nothing, or has fallen: what the numbers say, and what to type next."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effdet_jax.data.example import Source, coco_dataset
from effdet_jax.evaluation.boxes import LOW_AP, BoxEvaluation
from effdet_jax.evaluation.coco import CocoMetrics, evaluate_coco

NUM_TRAIN_IMAGES = 200  # To be evaluated on, evenly over the training data.
FEW_STEPS = 300
LEAST_SCORE = 1e-3
DIVERGED = 3.0  # The loss, by its smallest interval so far.
CHECK_DATA = "python -m effdet_jax.check_data FOLDER"


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What is known beside the evaluation; a default where it isn't.

    Attributes:
      best_ap: of earlier evaluations of the run.
      step: steps done.
      warmup_steps: of the learning rate.
      learning_rate: at its peak, for the batch.
      loss, smallest_loss: mean of the newest interval, and of the best so far.
      aps: {'averaged': AP, 'raw': AP}, of those weights that were evaluated.
      statistics_left: share that running statistics of batch normalisation still have of their
        initial values.
      score_threshold: detections below it were left out.
      anchors: findings on how anchors and boxes go together, each with what to type.
    """

    best_ap: float = 0.0
    step: int = 0
    warmup_steps: int = 0
    learning_rate: float = 0.0
    loss: float = float("nan")
    smallest_loss: float = float("nan")
    aps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    statistics_left: float = 0.0
    score_threshold: float = 0.0
    anchors: Sequence[str] = ()


def diagnose(
    result: BoxEvaluation,
    source: Source,
    known: Circumstances = Circumstances(),
    train: BoxEvaluation | None = None,
) -> list[str]:
    """The block to print: what was looked at, then a line per finding that holds.

    Args:
      result: the evaluation on `source`.
      source: validation data.
      known: what else there is to look at.
      train: the same weights on up to `NUM_TRAIN_IMAGES` training images.
    """
    dataset = coco_dataset(source.ground_truth(), source.class_names)
    scores = [row["score"] for row in result.results]
    overlap = best_overlap(dataset, result.results)
    agnostic = without_classes(dataset, result.results)
    findings = [
        *_of_ground_truth(dataset, result),
        *_of_predictions(scores, overlap, known),
        *_of_classes(result.metrics, agnostic, len(source.class_names)),
        *_of_youth(known),
        *_of_divergence(known),
        *known.anchors,
        *(_of_training(result.metrics, train) if train else ()),
    ]
    fell = f", after {known.best_ap:.3f}" if known.best_ap > result.metrics.summary["AP"] else ""
    looked = (
        f"AP is {result.metrics.summary['AP']:.3f}{fell}. Looked at: {len(scores)} detections, best "
        f"score {max(scores, default=0.0):.2g}, mean best IoU with an object {overlap:.2f}, AP "
        f"without classes {agnostic.summary['AP']:.3f}"
    )
    if train:
        looked += (
            f", AP on {train.metrics.num_images} training images {train.metrics.summary['AP']:.3f}"
        )
    nothing = f"nothing is wrong that is looked for here; look at the data: {CHECK_DATA}"
    return [looked, *(f"- {line}" for line in findings or [nothing])]


def best_overlap(dataset: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> float:
    """Mean over images with objects of the best IoU of any detection with any object, whatever the
    classes; 0 for an image without detections, NaN where there is no object at all.

    Args:
      dataset: COCO-JSON dict.
      results: COCO result rows.
    """
    truths, found = collections.defaultdict(list), collections.defaultdict(list)
    for rows, boxes in ((dataset["annotations"], truths), (results, found)):
        for row in rows:
            if not row.get("iscrowd"):
                boxes[row["image_id"]].append(row["bbox"])
    best = [_best_iou(found[image], boxes) for image, boxes in truths.items()]
    return float(np.mean(best)) if best else float("nan")


def _best_iou(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Best IoU of two lists of [x, y, width, height]."""
    if not ones:
        return 0.0
    a, b = np.array(ones)[:, None], np.array(others)[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - shared
    return float(np.max(shared / np.maximum(union, 1e-9)))


def without_classes(
    dataset: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> CocoMetrics:
    """COCO's metrics where every detection and every object is of one class."""
    one = {
        **dataset,
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**row, "category_id": 1} for row in dataset["annotations"]],
    }
    return evaluate_coco(one, [{**row, "category_id": 1} for row in results])


def _of_ground_truth(dataset: Mapping[str, Any], result: BoxEvaluation) -> list[str]:
    """All crowd, no area, classes that don't meet, images that can't be read."""
    rows, lines = dataset["annotations"], []
    counting = [row for row in rows if not row["iscrowd"] and row["area"] > 0]
    if not counting:
        all_of_them = f": all {len(rows)} are crowds (iscrowd: 1) or without area" if rows else ""
        lines.append(
            f"the validation data has no boxes that count{all_of_them}. Other annotations: "
            f"--config.data.val_json=…; {CHECK_DATA}"
        )
    there = {row["category_id"] for row in counting}
    found = {row["category_id"] for row in result.results}
    if there and found and not there & found:
        lines.append(
            f"no class that is found is in the validation data: ids {sorted(found, key=str)[:5]} "
            f"against {sorted(there, key=str)[:5]}; both splits must mean the same: {CHECK_DATA}"
        )
    if len(result.unreadable) > result.metrics.num_images / 10:
        lines.append(
            f"{len(result.unreadable)} of {result.metrics.num_images} validation images can't be "
            f"read, first {result.unreadable[0]}: --config.data.val_images=…"
        )
    return lines


def _of_predictions(scores: Sequence[float], overlap: float, known: Circumstances) -> list[str]:
    """Nothing predicted, nothing above the threshold, or everything elsewhere."""
    best = max(scores, default=0.0)
    if best < LEAST_SCORE and known.score_threshold > LEAST_SCORE:
        return [
            (
                f"no score reaches --config.eval.score_threshold={known.score_threshold:g}; COCO's "
                "metrics want all detections: --config.eval.score_threshold=0"
            )
        ]
    if best < LEAST_SCORE:
        rate = f"; now {known.learning_rate:g} for a batch" if known.learning_rate else ""
        return [
            (
                f"no score is above {LEAST_SCORE:g}: it has learned that there is nothing. Train "
                f"longer (--config.num_epochs=…) or change the learning rate "
                f"(--config.optim.learning_rate=…{rate}); --overfit=8 "
                "in the place of --workdir tells whether it can learn at all"
            )
        ]
    if overlap < 0.1:
        return [
            (
                f"detections lie nowhere near the objects (mean best IoU {overlap:.2f}): the order or "
                f"the scale of boxes differs between training and validation data: {CHECK_DATA}, and "
                "look at train_batch.jpg and val_detections.jpg in the workdir"
            )
        ]
    return []


def _of_classes(metrics: CocoMetrics, agnostic: CocoMetrics, num_classes: int) -> list[str]:
    """Objects are found, under other names."""
    plain, merged = metrics.summary["AP50"], agnostic.summary["AP50"]
    if num_classes < 2 or merged < 0.1 or merged < 4 * max(plain, 0.0):
        return []
    return [
        (
            f"objects are found but under other names: AP50 is {plain:.3f}, and {merged:.3f} without "
            "classes. The classes of training and validation data may be listed in another order: "
            f"{CHECK_DATA}; if they aren't, classes are still to be told apart: --config.num_epochs=…"
        )
    ]


def _of_youth(known: Circumstances) -> list[str]:
    """Too early to tell: few steps, statistics or averages that still lag."""
    lines = []
    if 0 < known.step < max(known.warmup_steps, FEW_STEPS):
        warmup = f", {known.warmup_steps} of them warm-up" if known.warmup_steps else ""
        lines.append(
            f"it is early: {known.step} steps{warmup}. Go on, or train longer: "
            "--config.num_epochs=…; from trained weights it takes fewer: --config.init=WEIGHTS"
        )
    if known.statistics_left > 0.02:
        lines.append(
            f"running statistics of batch normalisation still are {known.statistics_left:.0%} "
            "initial values: --config.optim.warm_up_statistics=True"
        )
    raw, averaged = known.aps.get("raw"), known.aps.get("averaged")
    if raw is None and averaged is not None:
        lines.append(
            "only averaged weights were evaluated, which lag behind; see the others, too: "
            "--config.eval.weights=both"
        )
    if raw is not None and averaged is not None and averaged < raw / 2:
        lines.append(
            f"the averaged weights lag behind (AP {averaged:.3f}, raw {raw:.3f}): train longer, or "
            "average over fewer steps: --config.optim.ema_decay=0.99"
        )
    return lines


def _of_divergence(known: Circumstances) -> list[str]:
    if not known.loss > DIVERGED * known.smallest_loss:
        return []
    return [
        (
            f"training diverges: the loss is {known.loss:.3g}, after {known.smallest_loss:.3g}. Try a "
            "quarter of the learning rate (--config.optim.learning_rate=…) or a longer warm-up "
            "(--config.optim.warmup_epochs=…) in a new --workdir"
        )
    ]


def _of_training(metrics: CocoMetrics, train: BoxEvaluation) -> list[str]:
    """Whether it learned what it was shown."""
    own, val = train.metrics.summary["AP"], metrics.summary["AP"]
    if own < LOW_AP:
        return [
            (
                f"what it was trained on isn't found either (AP {own:.3f} on "
                f"{train.metrics.num_images} training images): it hasn't learned yet. --overfit=8 in "
                "the place of --workdir tells in minutes whether set-up and data allow it"
            )
        ]
    if own > max(0.05, 4 * val):
        return [
            (
                f"what it was trained on is found (AP {own:.3f} on {train.metrics.num_images} training "
                "images), so the validation data differs: other annotations, other images or too few "
                f"to learn more than themselves. {CHECK_DATA}"
            )
        ]
    return []
