"""A model over a data set: detections of every image, then COCO's metrics."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from effdet_jax.data.example import Source, coco_dataset
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.detection.postprocess import Detections
from effdet_jax.distributed.mesh import (
    evaluation_sharding,
    place_evaluation_batch,
    replicate,
    replicated,
)
from effdet_jax.distributed.processes import wait_for_all
from effdet_jax.evaluation.coco import (
    CocoMetrics,
    evaluate_coco,
)
from effdet_jax.inference.predictor import create_detect
from effdet_jax.inference.result import coco_results
from effdet_jax.model.detector import Detector

NUM_FIRST = 9  # Images whose detections are kept as they are, to be drawn.


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics, the result rows behind them, and which images couldn't be read.

    Attributes:
      metrics: COCO's.
      results: COCO result rows with the data set's own ids.
      unreadable: descriptions of images that have no detections because they are broken.
      first: detections of the first `NUM_FIRST` images, by index; broken ones are left out.
    """

    metrics: CocoMetrics
    results: list[dict[str, Any]]
    unreadable: list[str]
    first: dict[int, Detections]

    @property
    def warnings(self) -> list[str]:
        """A line for each image that couldn't be read."""
        return [
            f"warning: {image} can't be read and counts as without detections"
            for image in self.unreadable
        ]


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
    put: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
    dataset: Mapping[str, Any],
) -> Evaluation:
    """Every image of `source` exactly once, whatever the batch size and the devices.

    Args:
      detect: jitted, of `inference.predictor.create_detect` and `with_rows`.
      variables: of the model.
      source: its classes and ground truth.
      batches: from `data.pipeline.eval_batches`; rows with index -1 fill up the last one.
      put: puts a batch on the devices.
      dataset: the source's ground truth, from `coco_dataset`.
    """
    ids = [image["id"] for image in dataset["images"]]
    results, unreadable, first = [], [], {}
    for batch in batches:
        found, rows = jax.device_get(detect(variables, put(batch)))
        for row, index in enumerate(map(int, rows["index"])):
            if index < 0:
                continue
            if not rows["valid"][row]:
                unreadable.append(source.describe(index))
                continue
            one = found[row]
            if index < NUM_FIRST:
                first[index] = one
            real = one[one.valid]
            results += coco_results(
                ids[index], real.boxes, real.scores, real.labels, source.class_names
            )
    return Evaluation(evaluate_coco(dataset, results), results, unreadable, first)


def create_evaluator(
    model: Detector, source: Source, mesh: Mesh, *, batch_size: int, **options: Any
) -> Callable[..., Evaluation]:
    """`variables → Evaluation` on all of `source`, compiled once; every process gets all of it.

    `(variables, other)` evaluates on another source of the same classes, without compiling anew.

    Args:
      model: the detector.
      source: of the same classes.
      mesh: its devices take whole images, whatever its axes.
      batch_size: of all devices together; rounded up to whole rows of devices.
      **options: keywords of `detection.postprocess.detect`.
    """
    detect = _compiled_once(
        jax.jit(
            with_rows(create_detect(model, **options)),
            in_shardings=(replicated(mesh), evaluation_sharding(mesh)),
            out_shardings=replicated(mesh),
        )
    )
    own = coco_dataset(source.ground_truth(), source.class_names)
    put = functools.partial(place_evaluation_batch, mesh=mesh)

    def evaluator(variables: Any, other: Source | None = None) -> Evaluation:
        chosen = other or source
        dataset = coco_dataset(other.ground_truth(), other.class_names) if other else own
        batches = eval_batches(
            chosen,
            image_size=model.spec.image_size,
            batch_size=-(-batch_size // mesh.size) * mesh.size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return evaluate(detect, replicate(variables, mesh), chosen, batches, put, dataset)

    return evaluator


def _compiled_once(function: Any) -> Callable[..., Any]:
    """A jitted function, compiled at its first call; all processes wait there for the last one."""
    compiled: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not compiled:
            compiled.append(function.lower(*arguments).compile())
            wait_for_all("evaluation compiled")
        return compiled[0](*arguments)

    return call
