"""Weak scaling: the same images per device on 1, 2, 4 … devices, and whether the numbers are right.

python -m effdet_jax.benchmark scaling --config=configs/lite0.py --per_device=2

On a machine without several devices, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight
of its processor. They share its cores, so their times say nothing of scaling; the numbers must agree.
"""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax.benchmark.step import CompiledStep
from effdet_jax.classes import COCO
from effdet_jax.cli import define_config_flag
from effdet_jax.data.pipeline import Batch, train_batches
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.data.synthetic import Shapes
from effdet_jax.distributed.mesh import place_batch
from effdet_jax.experiment import Experiment
from effdet_jax.model.initialize import initial_variables


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "per_device": flags.DEFINE_integer("per_device", 1, "images of a device", lower_bound=1),
        "steps": flags.DEFINE_integer("steps", 5, "measured, after one", lower_bound=1),
        "verify": flags.DEFINE_bool(
            "verify", True, "compute the first step on one device, too, and compare"
        ),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(config: ConfigDict, per_device: int, steps: int, verify: bool, as_json: bool) -> int:
    rows = scaling(config, per_device, steps=steps, verify=verify)
    print(json.dumps({"rows": rows}) if as_json else "\n".join(lines(rows)))
    return 0


def scaling(
    config: ConfigDict, per_device: int, *, steps: int = 5, verify: bool = True
) -> list[dict[str, Any]]:
    """A row per number of devices, powers of two: devices, batch_size, median_ms, images_per_second,
    efficiency (against one device), and difference: of the first step's loss and gradient norm, the
    larger one, to those of one device with all the images, as a fraction. Later steps say less: where
    a few values are normalised, another order of sums soon makes another run."""
    rows: list[dict[str, Any]] = []
    count = 1
    while count <= jax.device_count():
        changed = copy.deepcopy(config)
        changed.batch_size = per_device * count
        batches = _batches(changed, 1 + steps)
        seconds, first = _train(changed, count, batches)
        difference = None
        if verify:
            expected = first if count == 1 else _train(changed, 1, batches[:1])[1]
            difference = float(np.max(np.abs(first / expected - 1)))
        speed = changed.batch_size / seconds
        rows.append(
            {
                "devices": count,
                "batch_size": changed.batch_size,
                "median_ms": round(1e3 * seconds, 1),
                "images_per_second": round(speed, 2),
                "efficiency": round(
                    speed / count / (rows[0]["images_per_second"] if rows else speed), 3
                ),
                "difference": difference,
            }
        )
        count *= 2
    return rows


def _train(config: ConfigDict, devices: int, batches: Sequence[Batch]) -> tuple[float, np.ndarray]:
    """(median seconds of a step after the first, loss and gradient norm of the first)."""
    experiment = Experiment.from_config(
        config,
        devices=jax.devices()[:devices],
        class_names=COCO,
        num_examples=100 * config.batch_size,
    )
    mesh, variables = experiment.mesh, initial_variables(experiment.model, config.seed)
    step = CompiledStep(experiment.step, experiment.optimizer, variables, batches[0], mesh)
    seconds, history = [], []
    for batch in batches:
        placed = jax.block_until_ready(place_batch(batch, mesh))
        started = time.perf_counter()
        metrics = jax.device_get(step(placed))
        seconds.append(time.perf_counter() - started)
        history.append([metrics["loss/total"], metrics["optim/grad_norm"]])
    return float(np.median(seconds[1:] or seconds)), np.array(history[0])


def _batches(config: ConfigDict, count: int) -> list[Batch]:
    experiment = Experiment.from_config(config, class_names=COCO)
    image_size, masks = experiment.spec.image_size, "masks" in experiment.objective.needs
    source = Shapes(image_size, config.batch_size * count, masks=masks)
    batches = train_batches(
        source,
        AugmentSettings(image_size),
        batch_size=config.batch_size,
        max_boxes=experiment.data_fit.max_boxes,
        masks=masks,
        seed=config.seed,
    )
    return [next(batches) for _ in range(count)]


def lines(rows: list[Mapping[str, Any]]) -> list[str]:
    """A table for people."""
    columns = tuple(rows[0])
    text = ["".join(f"{column:>19s}" for column in columns)]
    for row in rows:
        cells = ("—" if row[column] is None else f"{row[column]:.6g}" for column in columns)
        text.append("".join(f"{cell:>19s}" for cell in cells))
    return text
