"""Trains a detector: the story of a run, in the order of a run.

python -m effdet_jax.train --config=configs/shapes.py --workdir=runs/shapes

The same command again goes on from the last checkpoint. SIGTERM and Ctrl-C save and end with 0.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from effdet_jax import cli
from effdet_jax.checkpoint import Checkpoints
from effdet_jax.compilation import release_memory
from effdet_jax.data.pipeline import Batch
from effdet_jax.distributed.mesh import place_batch
from effdet_jax.distributed.processes import connected, wait_for_all
from effdet_jax.experiment import Experiment
from effdet_jax.run.initialize import checkpoint_parts
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.monitor import format_duration
from effdet_jax.run.pictures import Pictures
from effdet_jax.run.stop import StopSignal
from effdet_jax.run.workdir import Workdir
from effdet_jax.training.state import TrainState
from effdet_jax.training.step import Step


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
      WorkdirError: it can't be written, or another training writes there.
    """
    started = time.time()
    experiment = Experiment.from_config(config)
    lines = experiment.banner_lines()  # Opens the data; what can't be is refused here.
    folder = Workdir(workdir)  # Not before: a start that fails leaves no folder.
    total_steps = experiment.schedule.total_steps
    with (
        folder.lock(),
        closing(Checkpoints(folder.last, experiment.keep_checkpoints)) as last,
        closing(Checkpoints(folder.best)) as best,
    ):
        print("\n".join(lines), flush=True)
        write_data_report(experiment, folder)
        state = experiment.load_or_create_state(last)
        start_step = int(state.step)
        if start_step >= total_steps:
            print(f"nothing to do: '{folder}' has trained {start_step} of {total_steps} steps")
            return dict(last.metadata().metrics)
        folder.write_config(experiment.metadata.config)
        with closing(MetricWriter(folder, start_step)) as writer:
            pictures = Pictures(folder, writer, experiment.val_source)
            metrics = fit(experiment, state, last, best, writer, pictures)
    print(f"done in {format_duration(time.time() - started)}: {folder}", flush=True)
    return metrics


def write_data_report(experiment: Experiment, folder: Workdir):
    """Lists every fault of the data in the workdir; says so if there are any."""
    reports = {"train": experiment.train_source.report, "val": experiment.val_source.report}
    folder.write_data_report({split: report.to_dict() for split, report in reports.items()})
    if any(report.faults for report in reports.values()):
        print(f"report     every fault of the data: {folder.data_report}", flush=True)


def fit(
    experiment: Experiment,
    state: TrainState,
    last: Checkpoints,
    best: Checkpoints,
    writer: MetricWriter,
    pictures: Pictures,
) -> dict[str, float]:
    """Trains from `state` to the end of the schedule; returns the newest evaluation's metrics."""
    schedule, mesh, start_step = experiment.schedule, experiment.mesh, int(state.step)
    metrics = {} if last.latest_step is None else dict(last.metadata().metrics)
    best_ap = -1.0 if best.latest_step is None else best.metadata().metrics["eval/AP"]
    step, batches = prepare(experiment, state, pictures)
    monitor = experiment.create_monitor()

    with StopSignal() as stop:
        for number in range(start_step + 1, schedule.total_steps + 1):
            batch = monitor.next_batch(batches)
            state, step_metrics = step(state, place_batch(batch, mesh))
            monitor.add(number, batch, step_metrics)
            if schedule.logs_after(number):
                writer.scalars(number, monitor.finish_interval(number))
            with monitor.paused():
                if schedule.evaluates_after(number):
                    monitor.settle()
                    metrics = evaluate(experiment, number, state, writer, pictures)
                    if metrics["eval/AP"] > best_ap:
                        best_ap = metrics["eval/AP"]
                        save(best, experiment, number, state, metrics)
                stopping = stop.requested(number)
                if schedule.saves_after(number) or stopping:
                    monitor.settle()
                    save(last, experiment, number, state, metrics)
            if stopping:
                print(f"stopped after step {number}; the same command goes on from there")
                break
    return metrics


def prepare(
    experiment: Experiment, state: TrainState, pictures: Pictures
) -> tuple[Step, Iterator[Batch]]:
    """The compiled step, and the batches from `state` on; draws the first one of a new run."""
    batches = experiment.train_batches(int(state.step))
    first = next(batches)
    if state.step == 0:
        pictures.write_batch(0, first)
    print("compiling  the train step …", end=" ", flush=True)
    started = time.time()
    step = experiment.step.lower(state, place_batch(first, experiment.mesh)).compile()
    release_memory()
    print(format_duration(time.time() - started), flush=True)
    wait_for_all("step compiled")
    return step, itertools.chain([first], batches)


def evaluate(
    experiment: Experiment,
    number: int,
    state: TrainState,
    writer: MetricWriter,
    pictures: Pictures,
) -> dict[str, float]:
    """Evaluates the moving averages after step `number`; writes numbers and pictures."""
    started = time.time()
    result = experiment.evaluator(state.ema)
    print(f"evaluation after step {number}, {format_duration(time.time() - started)}:")
    print("  " + "\n  ".join(result.metrics.lines()), flush=True)
    for image in result.unreadable:
        print(f"warning: {image} can't be read and counts as without detections")
    metrics = {f"eval/{name}": value for name, value in result.metrics.summary.items()}
    classes = {f"eval/AP/{name}": ap for name, ap in result.metrics.per_class.items()}
    writer.scalars(number, metrics | classes)
    pictures.write_detections(number, result.first)
    return metrics


def save(
    checkpoints: Checkpoints,
    experiment: Experiment,
    number: int,
    state: TrainState,
    metrics: Mapping[str, float],
):
    """Starts writing the state after step `number`, with the newest evaluation's metrics."""
    metadata = dataclasses.replace(experiment.metadata, step=number, metrics=metrics)
    checkpoints.save(metadata, **checkpoint_parts(state))


if __name__ == "__main__":
    cli.run(main, define_flags)
