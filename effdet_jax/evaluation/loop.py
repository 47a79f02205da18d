"""A model over a data set: detections of every image, then COCO's metrics, and the loss."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from effdet_jax.checkpoint import THRESHOLD
from effdet_jax.data.example import Source, coco_dataset
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.detection.objective import Objective
from effdet_jax.detection.postprocess import Detections
from effdet_jax.distributed.mesh import (
    evaluation_sharding,
    place_evaluation_batch,
    replicate,
    replicated,
)
from effdet_jax.distributed.processes import wait_for_all
from effdet_jax.evaluation.analysis import Analysis, analyse_run
from effdet_jax.evaluation.coco import CocoMetrics, coco_metrics, run_coco
from effdet_jax.inference.predictor import create_inference
from effdet_jax.inference.result import coco_results
from effdet_jax.inference.tta import TTA
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
      analysis: what lies behind the metrics.
      loss: {'loss/total': …} and parts, see `mean_loss`; empty if it wasn't asked for, or there are
        no boxes to find.
    """

    metrics: CocoMetrics
    results: list[dict[str, Any]]
    unreadable: list[str]
    first: dict[int, Detections]
    analysis: Analysis | None = None
    loss: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """Metrics and the table of the classes, to print."""
        table = self.analysis.lines() if self.analysis and self.metrics.num_boxes else []
        return [*self.metrics.lines(), *table]

    @property
    def score_threshold(self) -> float | None:
        """The one of the best F1, None where nothing is found at any."""
        found = self.analysis is not None and self.analysis.best_f1 > 0
        return self.analysis.threshold if found else None

    def scalars(self) -> dict[str, float]:
        """All numbers but those of classes, by metric name: {'eval/AP': …, 'eval/loss/total': …}."""
        numbers = {**self.metrics.summary, **self.loss}
        metrics = {f"eval/{name}": value for name, value in numbers.items()}
        if self.score_threshold is not None:
            metrics |= {"eval/F1": self.analysis.best_f1, THRESHOLD: self.score_threshold}
        return metrics

    @property
    def warnings(self) -> list[str]:
        """A line for each image that couldn't be read."""
        return [
            f"warning: {image} can't be read and counts as without detections"
            for image in self.unreadable
        ]


def create_program(
    model: Detector, objective: Objective | None, tta: TTA | None = None, **options: Any
) -> Callable[..., tuple[Detections, dict[str, jax.Array]]]:
    """`(variables, batch) → (Detections, parts of the loss)`, both of one run of the network.

    The loss is what the training step computes of such a batch, but in inference mode: running
    statistics, no drop-connect. Without an objective there are no parts. Other views of `tta` take
    part in the detections alone.
    """
    detect = create_inference(model, tta, **options)

    def run(variables, batch):
        found, outputs = detect(variables, batch)
        if objective is None:
            return found, {}
        targets = objective.targets(batch)
        _, parts = objective.loss(outputs, targets, objective.normalizer(targets))
        losses = {name: value for name, value in parts.items() if name.startswith("loss/")}
        return found, losses

    return run


def with_rows(program: Callable[..., tuple]) -> Callable[..., tuple]:
    """A program of `create_program` that also returns which image each row of the batch is.

    Jitted with replicated results it gives every process the rows of all.
    """
    return lambda variables, batch: (
        *program(variables, batch),
        {name: batch[name] for name in ("index", "valid")},
    )


def evaluate(
    program: Callable[[Any, Mapping[str, jax.Array]], tuple[Detections, Any, Any]],
    variables: Any,
    source: Source,
    batches: Iterable[Mapping[str, np.ndarray]],
    put: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
    dataset: Mapping[str, Any],
) -> Evaluation:
    """Every image of `source` exactly once, whatever the batch size and the devices.

    Args:
      program: jitted, of `create_program` and `with_rows`.
      variables: of the model.
      source: its classes and ground truth.
      batches: from `data.pipeline.eval_batches`; rows with index -1 fill up the last one.
      put: puts a batch on the devices.
      dataset: the source's ground truth, from `coco_dataset`.
    """
    ids = [image["id"] for image in dataset["images"]]
    results, unreadable, first, losses = [], [], {}, []
    for batch in batches:
        found, loss, rows = jax.device_get(program(variables, put(batch)))
        loss = {name: float(value) for name, value in loss.items()}
        losses.append((int(np.sum(rows["valid"])), loss))
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
    run = run_coco(dataset, results)
    analysis = analyse_run(run, source.class_names)
    return Evaluation(coco_metrics(run), results, unreadable, first, analysis, mean_loss(losses))


def mean_loss(batches: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Mean over images: each batch's loss counts as often as it has images that can be read.

    A batch's loss has the normaliser of that batch, as a training step's has. So it depends a little
    on the size of the batches, and compares with the training's for batches of the same size.

    Args:
      batches: (images, parts by name) of each.
    """
    batches = [(count, parts) for count, parts in batches if count]
    if not batches:
        return {}
    counts, losses = zip(*batches)
    return {
        name: float(np.average([parts[name] for parts in losses], weights=counts))
        for name in losses[0]
    }


def create_evaluator(
    model: Detector,
    source: Source,
    mesh: Mesh,
    *,
    batch_size: int,
    objective: Objective | None = None,
    tta: TTA | None = None,
    **options: Any,
) -> Callable[..., Evaluation]:
    """`variables → Evaluation` on all of `source`, compiled once; every process gets all of it.

    `(variables, other)` evaluates on another source of the same classes, without compiling anew.

    Args:
      model: the detector.
      source: of the same classes.
      mesh: its devices take whole images, whatever its axes.
      batch_size: of all devices together; rounded up to whole rows of devices.
      objective: for the loss, None for none. Of another source's images with more boxes than any of
        `source` has, the loss leaves boxes out, as training does beyond its slots.
      tta: other views of the images that take part in the detections, None for none.
      **options: keywords of `detection.postprocess.detect`.
    """
    own = coco_dataset(source.ground_truth(), source.class_names)
    max_boxes = most_boxes(own) if objective else 0
    program = _compiled_once(
        jax.jit(
            with_rows(create_program(model, objective if max_boxes else None, tta, **options)),
            in_shardings=(replicated(mesh), evaluation_sharding(mesh)),
            out_shardings=replicated(mesh),
        )
    )
    put = functools.partial(place_evaluation_batch, mesh=mesh)

    def evaluator(variables: Any, other: Source | None = None) -> Evaluation:
        chosen = other or source
        dataset = coco_dataset(other.ground_truth(), other.class_names) if other else own
        batches = eval_batches(
            chosen,
            image_size=model.spec.image_size,
            batch_size=-(-batch_size // mesh.size) * mesh.size,
            max_boxes=max_boxes,
            other_sizes=tta.sizes(model.spec) if tta else (),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return evaluate(program, replicate(variables, mesh), chosen, batches, put, dataset)

    return evaluator


def most_boxes(dataset: Mapping[str, Any]) -> int:
    """The most boxes that an image of a COCO-JSON dict has, without crowds."""
    rows = (row["image_id"] for row in dataset["annotations"] if not row["iscrowd"])
    return max(collections.Counter(rows).values(), default=0)


def _compiled_once(function: Any) -> Callable[..., Any]:
    """A jitted function, compiled at its first call; all processes wait there for the last one."""
    compiled: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not compiled:
            compiled.append(function.lower(*arguments).compile())
            wait_for_all("evaluation compiled")
        return compiled[0](*arguments)

    return call
