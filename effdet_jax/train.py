"""Trains a detector: the story of a run, in the order of a run.

python -m effdet_jax.train --config=configs/shapes.py --workdir=runs/shapes

The same command again goes on from the last checkpoint. SIGTERM and Ctrl-C save and end with 0.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image

from effdet_jax import cli
from effdet_jax import config as configs
from effdet_jax.checkpoint import BEST, LAST, Checkpoints, Metadata
from effdet_jax.data.example import DataError, Source
from effdet_jax.data.pipeline import train_batches
from effdet_jax.distributed.mesh import place_batch, process_share
from effdet_jax.distributed.processes import connected, wait_for_all
from effdet_jax.evaluation.loop import Evaluation
from effdet_jax.experiment import (
    evaluator_of,
    mesh_of,
    model_of,
    optimizer_of,
    peak_learning_rate,
    plan_of,
    train_step_of,
)
from effdet_jax.inference.render import draw_boxes, draw_results, grid
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.run.initialize import checkpoint_parts, resume, start
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.monitor import StepWatch, format_duration
from effdet_jax.run.schedule import Plan
from effdet_jax.run.stop import StopSignal
from effdet_jax.run.workdir import only_training_in
from effdet_jax.training.state import TrainState
from effdet_jax.training.step import Step

PICTURES = 9  # Images drawn of the first batch and of each evaluation.


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run has once its data are open and before anything is compiled."""

    config: ConfigDict
    workdir: str
    train_source: Source
    val_source: Source
    model: Detector
    mesh: Mesh
    plan: Plan


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": cli.define_config_flag(required=True),
        "workdir": flags.DEFINE_string(
            "workdir", None, "folder of the run: checkpoints, logs", required=True
        ),
        **cli.define_process_flags(),
    }


def main(config: ConfigDict, workdir: str, **processes: Any) -> int:
    with connected(**processes):
        train(config, workdir)
    return 0


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains as `config` says in `workdir`, or goes on there; returns the last evaluation's metrics.

    Raises:
      ConfigError, DataError, CheckpointError: what is wrong and what to type instead.
      TrainingError: too many steps in a row were no finite numbers.
      WorkdirInUseError: another training writes there.
    """
    started = time.time()
    configs.validate(config)
    _make_workdir(workdir)

    # Data, and the classes in it.
    train_source, val_source = (configs.open_source(config, split) for split in ("train", "val"))
    class_names = train_source.class_names
    if different := class_names.difference(val_source.class_names):
        raise DataError(f"training and validation data differ in their classes: {different}")

    # Mesh and model.
    mesh = mesh_of(config)
    model = model_of(config, class_names)
    plan = plan_of(config, len(train_source))
    run = _Run(config, workdir, train_source, val_source, model, mesh, plan)

    with (
        only_training_in(workdir),
        closing(Checkpoints(os.path.join(workdir, LAST), config.keep_checkpoints)) as last,
        closing(Checkpoints(os.path.join(workdir, BEST))) as best,
    ):
        unfinished = (last.latest_step or 0) < plan.total_steps
        _print_banner(run)
        metrics = _fit(run, last, best)
    if unfinished:
        print(f"done in {format_duration(time.time() - started)}: {workdir}", flush=True)
    return metrics


def _fit(run: _Run, last: Checkpoints, best: Checkpoints) -> dict[str, float]:
    """State, compiled step, loop: the second half of `train`."""
    config, model, mesh, plan = run.config, run.model, run.mesh, run.plan
    # Optimizer and state: from this workdir's last checkpoint, else config.init, else scratch.
    optimizer = optimizer_of(config, model)
    metadata = Metadata(model.spec, model.class_names, configs.plain(config))
    if last.latest_step is None:
        state = start(model, optimizer, mesh, seed=config.seed, init=config.init)
    else:
        state = resume(model, optimizer, mesh, last, metadata)
    start_step = int(state.step)
    if start_step >= plan.total_steps:
        print(
            f"nothing to do: '{run.workdir}' has trained {start_step} of {plan.total_steps} steps"
        )
        return dict(last.metadata().metrics)
    writer = MetricWriter(run.workdir if jax.process_index() == 0 else None, start_step)
    _write_config(run, metadata.config)

    # Step and evaluation, compiled once each.
    process_index, process_count = process_share(mesh)
    batches = train_batches(
        run.train_source,
        configs.augment_settings(config, model.spec.image_size),
        batch_size=config.batch_size,
        max_boxes=config.data.max_boxes,
        seed=config.seed,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
        workers=config.data.workers,
        threads=config.data.threads,
    )
    batch = next(batches)
    if start_step == 0:
        _show_batch(run, writer, batch)
    evaluator = _Evaluator(run, writer)
    step = _compile_step(run, state, batch)

    # The loop.
    watch = StepWatch(
        batch_size=config.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        max_bad_steps=config.max_bad_steps,
        describe=run.train_source.describe,
    )
    best_ap = best.metadata().metrics["eval/AP"] if best.latest_step is not None else -1.0
    metrics: dict[str, float] = {}

    def save(checkpoints: Checkpoints, number: int, state: TrainState):
        done = dataclasses.replace(metadata, step=number, metrics=metrics)
        checkpoints.save(done, **checkpoint_parts(state))

    with closing(writer), StopSignal() as stop:
        for number in range(start_step + 1, plan.total_steps + 1):
            state, step_metrics = step(state, place_batch(batch, mesh))
            watch.add(number, batch, step_metrics)
            if number % config.log_every_steps == 0 or number == plan.total_steps:
                writer.scalars(number, watch.finish_interval(number))
            paused = time.time()
            if plan.evaluates_after(number):
                watch.settle()
                metrics = evaluator(number, state)
                if metrics["eval/AP"] > best_ap:
                    best_ap = metrics["eval/AP"]
                    save(best, number, state)
            stopping = stop.requested(number)
            if plan.saves_after(number) or stopping:
                watch.settle()
                save(last, number, state)
            watch.pause(time.time() - paused)
            if stopping:
                print(f"stopped after step {number}; the same command goes on from there")
                break
            if number < plan.total_steps:
                batch = watch.next_batch(batches)
    return metrics


def _make_workdir(workdir: str):
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, f".writable-{jax.process_index()}")
        with open(probe, "w", encoding="utf-8"):
            pass
        os.remove(probe)
    except OSError as error:
        raise configs.ConfigError(
            f"can't write into --workdir={workdir}: {error.strerror}; choose another folder"
        ) from error


def _write_config(run: _Run, config: Mapping[str, Any]):
    if jax.process_index() == 0:
        with open(os.path.join(run.workdir, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)


def _print_banner(run: _Run):
    config, model, plan = run.config, run.model, run.plan
    spec, class_names, devices = model.spec, model.class_names, run.mesh.devices.flatten()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(model)["params"]))
    mesh = " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(f"devices    {len(devices)} × {devices[0].device_kind}{processes}, mesh {mesh}")
    for name, source in (("train", run.train_source), ("val", run.val_source)):
        print(f"{name:10s} " + "\n           ".join(source.report.lines()))
    print(
        f"classes    {len(class_names)}: {class_names.preview(8)} (ids {class_names.ids[0]} … {class_names.ids[-1]})"
    )
    height, width = spec.image_size
    print(
        f"model      {spec.name} at {height}×{width}, {parameters:,} parameters, "
        f"computing in {np.dtype(model.dtype).name}"
    )
    print(
        f"batch      {config.batch_size} = {_per_device(run)} per device; "
        f"{plan.total_steps} steps = {plan.total_steps / plan.steps_per_epoch:.1f} epochs of "
        f"{plan.steps_per_epoch:.1f} steps; peak learning rate {peak_learning_rate(config):.4g}",
        flush=True,
    )


def _per_device(run: _Run) -> str:
    """Images that a device computes at a time."""
    images = run.config.batch_size // (run.mesh.shape["data"] * run.mesh.shape["fsdp"])
    parts = run.config.microbatches
    split = f" / {run.mesh.shape['spatial']}" if run.mesh.shape["spatial"] > 1 else ""
    return (f"{parts} × " if parts > 1 else "") + f"{images // parts}{split}"


def _compile_step(run: _Run, state: TrainState, batch: Mapping[str, np.ndarray]) -> Step:
    placed = place_batch(batch, run.mesh)
    print("compiling  the train step …", end=" ", flush=True)
    started = time.time()
    step = train_step_of(run.config, run.model, run.plan, run.mesh)
    compiled = step.lower(state, placed).compile()
    print(format_duration(time.time() - started), flush=True)
    wait_for_all("step compiled")
    return compiled


class _Evaluator:
    """Evaluates a state on the validation data, writes the numbers and draws the first images."""

    def __init__(self, run: _Run, writer: MetricWriter):
        self._run, self._writer = run, writer
        self._evaluate = evaluator_of(run.config, run.model, run.mesh, run.val_source)

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        started = time.time()
        result = self._evaluate(state.ema)
        print(f"evaluation after step {step}, {format_duration(time.time() - started)}:")
        print("  " + "\n  ".join(result.metrics.lines()), flush=True)
        for image in result.unreadable:
            print(f"warning: {image} can't be read and counts as without detections")
        metrics = {f"eval/{name}": value for name, value in result.metrics.summary.items()}
        classes = {f"eval/AP/{name}": ap for name, ap in result.metrics.per_class.items()}
        self._writer.scalars(step, metrics | classes)
        self._draw(step, result)
        return metrics

    def _draw(self, step: int, result: Evaluation):
        """Pictures of the first images with what was found on them."""
        source, pictures = self._run.val_source, []
        for index in range(min(PICTURES, len(source))):
            example = source[index]
            rows = [row for row in result.results if row["image_id"] == example.truth.image_id]
            pictures.append(draw_results(example.image, rows, source.class_names))
        _write_picture(self._run, self._writer, step, "val_detections", pictures)


def _show_batch(run: _Run, writer: MetricWriter, batch: Mapping[str, np.ndarray]):
    """Pictures of the first augmented batch: what the network is going to see."""
    pictures = [
        draw_boxes(image, boxes[classes >= 0], classes[classes >= 0], run.model.class_names)
        for image, boxes, classes in zip(batch["image"], batch["boxes"], batch["labels"])
    ]
    _write_picture(run, writer, 0, "train_batch", pictures[:PICTURES])


def _write_picture(
    run: _Run, writer: MetricWriter, step: int, name: str, pictures: Sequence[np.ndarray]
):
    if jax.process_index() == 0:
        picture = grid(pictures)
        writer.image(step, name, picture)
        Image.fromarray(picture).save(os.path.join(run.workdir, f"{name}.jpg"), quality=92)


if __name__ == "__main__":
    cli.run(main, define_flags)
