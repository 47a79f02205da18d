"""A model over a data set: predictions of every image, then their metrics, and the loss."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from effdet_jax.data.example import Source
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.detection.objective import Objective, create_objective
from effdet_jax.distributed.mesh import (
    evaluation_sharding,
    place_evaluation_batch,
    replicate,
    replicated,
)
from effdet_jax.distributed.processes import wait_for_all
from effdet_jax.evaluation.boxes import BoxScorer
from effdet_jax.evaluation.boxes_and_masks import JointScorer
from effdet_jax.evaluation.classes import ClassScorer
from effdet_jax.evaluation.evaluation import Evaluation, Scorer
from effdet_jax.evaluation.masks import MaskScorer
from effdet_jax.inference.predictor import create_inference
from effdet_jax.inference.tta import TTA
from effdet_jax.model.detector import Detector

NUM_FIRST = 9  # Images whose predictions are kept as they are, to be drawn.


# What an objective's `measures` names → source → `evaluation.Scorer`.
SCORERS: dict[str, Callable[[Source], Scorer]] = {
    "boxes": BoxScorer,
    "masks": MaskScorer,
    "boxes+masks": JointScorer,
    "classes": ClassScorer,
}


def create_program(
    model: Detector, objective: Objective | None, tta: TTA | None = None, **options: Any
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """`(variables, batch) → (predictions, parts of the loss)`, both of one run of the network.

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
    program: Callable[[Any, Mapping[str, jax.Array]], tuple[Any, Any, Any]],
    variables: Any,
    source: Source,
    batches: Iterable[Mapping[str, np.ndarray]],
    put: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
    scorer: Scorer,
) -> Evaluation:
    """Every image of `source` exactly once, whatever the batch size and the devices.

    Args:
      program: jitted, of `create_program` and `with_rows`.
      variables: of the model.
      source: names images that can't be read.
      batches: from `data.pipeline.eval_batches`; rows with index -1 fill up the last one.
      put: puts a batch on the devices.
      scorer: of that source.
    """
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
            one = jax.tree.map(lambda leaf: leaf[row], found)  # noqa: B023 (used at once)
            if index < NUM_FIRST:
                first[index] = one
            results += scorer.rows(index, one)
    return scorer.evaluation(results, unreadable=unreadable, first=first, loss=mean_loss(losses))


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
      **options: keywords of the objective's `decode`.
    """
    of_model = create_objective(model.spec)
    create_scorer = SCORERS[of_model.measures]
    own = create_scorer(source)
    max_boxes = own.max_boxes if objective else 0
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
        scorer = create_scorer(other) if other else own
        batches = eval_batches(
            chosen,
            image_size=model.spec.image_size,
            crop=model.spec.crop,
            batch_size=-(-batch_size // mesh.size) * mesh.size,
            max_boxes=max_boxes,
            masks=bool(max_boxes) and "masks" in of_model.needs,
            other_sizes=tta.sizes(model.spec) if tta else (),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return evaluate(program, replicate(variables, mesh), chosen, batches, put, scorer)

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
