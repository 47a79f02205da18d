"""A model over a data set: detections of every image, then COCO's metrics."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from effdet_jax.data.example import Source
from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.coco import (
    CocoMetrics,
    coco_dataset,
    coco_results,
    evaluate_coco,
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics, the result rows behind them, and which images couldn't be read.

    Attributes:
      metrics: COCO's.
      results: COCO result rows with the data set's own ids.
      unreadable: descriptions of images that have no detections because they are broken.
    """

    metrics: CocoMetrics
    results: list[dict[str, Any]]
    unreadable: list[str]


def with_rows(detect: Callable[..., Detections]) -> Callable[..., tuple[Detections, Any]]:
    """`detect` that also returns which image each row of the batch is.

    Jitted with replicated results it gives every process the rows of all.
    """
    return lambda variables, batch: (
        detect(variables, batch),
        {name: batch[name] for name in ("index", "valid")},
    )


def evaluate(
    detect: Callable[[Any, Mapping[str, jax.Array]], tuple[Detections, Any]],
    variables: Any,
    source: Source,
    batches: Iterable[Mapping[str, np.ndarray]],
    place: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
    dataset: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Every image of `source` exactly once, whatever the batch size and the devices.

    Args:
      detect: jitted, of `inference.create_detect` and `with_rows`.
      variables: of the model.
      source: its classes and ground truth.
      batches: from `data.pipeline.eval_batches`; rows with index -1 fill up the last one.
      place: puts a batch on the devices.
      dataset: the source's ground truth from `coco_dataset`, if it is at hand already.
    """
    if dataset is None:
        dataset = coco_dataset(source.ground_truth(), source.class_names)
    ids = [image["id"] for image in dataset["images"]]
    results, unreadable = [], []
    for batch in batches:
        found, rows = jax.device_get(detect(variables, place(batch)))
        for row, index in enumerate(map(int, rows["index"])):
            if index < 0:
                continue
            if not rows["valid"][row]:
                unreadable.append(source.describe(index))
                continue
            kept = found.valid[row]
            results += coco_results(
                ids[index],
                found.boxes[row][kept],
                found.scores[row][kept],
                found.labels[row][kept],
                source.class_names,
            )
    return Evaluation(evaluate_coco(dataset, results), results, unreadable)
