"""Trains a detector: the story of a run, in the order of a run.

python -m effdet_jax.train --config=configs/shapes.py --workdir=runs/shapes

The same command again goes on from the last checkpoint. SIGTERM and Ctrl-C save and end with 0.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import advice, cli
from effdet_jax.checkpoint import Checkpoints
from effdet_jax.compilation import release_memory
from effdet_jax.config import ConfigError
from effdet_jax.data.pipeline import Batch
from effdet_jax.detection.objective import format_loss
from effdet_jax.distributed.mesh import place_batch
from effdet_jax.distributed.processes import connected, wait_for_all
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.experiment import Experiment
from effdet_jax.report.run_page import RunPage
from effdet_jax.run.best import Best
from effdet_jax.run.divergence import going_back
from effdet_jax.run.initialize import checkpoint_parts
from effdet_jax.run.memory import memory_explained
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.monitor import Monitor, format_duration
from effdet_jax.run.pictures import Pictures
from effdet_jax.run.stop import StopSignal
from effdet_jax.run.workdir import Workdir, earlier_config
from effdet_jax.training.state import TrainState
from effdet_jax.training.step import Step


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": cli.define_config_flag(required=True),
        "workdir": flags.DEFINE_string("workdir", "", "folder of the run: checkpoints, logs"),
        "overfit": flags.DEFINE_integer(
            "overfit",
            0,
            "proves set-up and data: trains on so many images, 8 say, until they are known by heart",
            lower_bound=0,
        ),
        **cli.define_process_flags(),
    }


def main(config: ConfigDict, workdir: str, overfit: int, **processes: Any) -> int:
    if bool(workdir) == bool(overfit):
        raise ConfigError(
            "--overfit keeps nothing: leave --workdir out"
            if workdir
            else "no folder is given for the run: --workdir=runs/mine"
        )
    with connected(**processes):
        if overfit:
            return try_overfitting(config, overfit)
        train(config, workdir)
    return 0


def try_overfitting(config: ConfigDict, count: int) -> int:
    """Trains on `count` images in a folder that is gone afterwards; says what came of it."""
    if jax.process_count() > 1:
        raise ConfigError("--overfit is for one process")
    with tempfile.TemporaryDirectory() as workdir:
        metrics = train(advice.overfit_config(config, count), workdir)
    print(advice.overfit_verdict(metrics, count))
    return 0 if advice.is_learned(metrics) else 1


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Trains as `config` says in `workdir`, or goes on there; returns the last evaluation's metrics.

    Raises:
      ConfigError, DataError, CheckpointError: what is wrong and what to type instead.
      TrainingError: too many steps in a row were no finite numbers.
      WorkdirError: it can't be written, or another training writes there.
      DeviceMemoryError: a step needs more memory than there is.
    """
    started = time.time()
    experiment = Experiment.from_config(config, earlier=earlier_config(workdir))
    lines = experiment.banner_lines()  # Opens the data; what can't be is refused here.
    folder = Workdir(workdir)  # Not before: a start that fails leaves no folder.
    total_steps = experiment.schedule.total_steps
    with (
        memory_explained(lambda: advice.what_fits(experiment)),
        folder.lock(),
        closing(Checkpoints(folder.last, experiment.keep_checkpoints)) as last,
        closing(Checkpoints(folder.best)) as best,
    ):
        print("\n".join(lines), flush=True)
        write_data_report(experiment, folder)
        state = experiment.load_or_create_state(last)
        start_step = int(state.step)
        record = experiment.create_best(best, folder.metrics, start_step)
        if start_step >= total_steps or record.exhausted:
            why = f"; {record}" if record.exhausted else ""
            print(f"nothing to do: '{folder}' has trained {start_step} of {total_steps} steps{why}")
            return dict(last.metadata().metrics)
        folder.write_config(experiment.metadata.config)
        with closing(experiment.create_writer(folder, start_step)) as writer:
            pictures = Pictures(folder, writer, experiment.val_source or experiment.train_source)
            page = experiment.create_page(folder)
            metrics = fit(experiment, state, last, best, record, writer, pictures, page)
    print(f"done in {format_duration(time.time() - started)}: {folder}", flush=True)
    return metrics


def write_data_report(experiment: Experiment, folder: Workdir):
    """Lists every fault of the data in the workdir; says so if there are any."""
    sources = {"train": experiment.train_source, "val": experiment.val_source}
    reports = {split: source.report for split, source in sources.items() if source}
    folder.write_data_report({split: report.to_dict() for split, report in reports.items()})
    if any(report.faults for report in reports.values()):
        print(f"report     every fault of the data: {folder.data_report}", flush=True)


def fit(
    experiment: Experiment,
    state: TrainState,
    last: Checkpoints,
    best: Checkpoints,
    record: Best,
    writer: MetricWriter,
    pictures: Pictures,
    page: RunPage,
) -> dict[str, float]:
    """Trains from `state` to the end of the schedule; returns the newest evaluation's metrics."""
    schedule, mesh, start_step = experiment.schedule, experiment.mesh, int(state.step)
    metrics = {} if last.latest_step is None else dict(last.metadata().metrics)
    step, batches = prepare(experiment, state, pictures)
    monitor, clock = experiment.create_monitor(), experiment.create_save_clock()
    with StopSignal() as stop, going_back(last, monitor, start_step):
        for number in range(start_step + 1, schedule.total_steps + 1):
            batch = monitor.next_batch(batches)
            state, step_metrics = step(state, place_batch(batch, mesh))
            monitor.add(number, batch, step_metrics)
            logs = schedule.logs_after(number)
            if logs:
                writer.scalars(number, monitor.finish_interval(number))
            with monitor.paused():
                if experiment.val_source and schedule.evaluates_after(number):
                    monitor.settle()
                    results = evaluate(experiment, number, state)
                    about = (monitor, record, writer, pictures, page)
                    metrics, better = report(experiment, number, results, *about)
                    if record.add(number, metrics):
                        save(best, experiment, number, state.replace(ema=better), metrics)
                stopping = stop.requested(number) or record.exhausted
                if schedule.saves_after(number) or stopping or clock.due(agreed=logs):
                    monitor.settle()
                    if stopping or not monitor.in_trouble:
                        save(last, experiment, number, state, metrics)
                        clock.reset()
            if stopping:
                print(f"stopped after step {number}{record.ending}")
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
    experiment: Experiment, number: int, state: TrainState
) -> dict[str, tuple[Evaluation, Any]]:
    """{'averaged': (evaluation, variables), 'raw': …} after step `number`; says how long it took."""
    started = time.time()
    results = {
        name: (experiment.evaluator(variables), variables)
        for name, variables in experiment.evaluated_variables(state).items()
    }
    print(f"evaluation after step {number}, {format_duration(time.time() - started)}", end=", ")
    return results


def report(
    experiment: Experiment,
    number: int,
    results: Mapping[str, tuple[Evaluation, Any]],
    monitor: Monitor,
    record: Best,
    writer: MetricWriter,
    pictures: Pictures,
    page: RunPage,
) -> tuple[dict[str, float], Any]:
    """Prints and writes numbers and pictures of an evaluation, and why they are low if they are.

    Returns:
      The metrics of the better weights, with the first metric of both, and those variables.
    """
    values = {name: result.value for name, (result, _) in results.items()}
    chosen = max(values, key=values.get)
    result, variables = results[chosen]
    print(
        f"{result.criterion} "
        + ", ".join(f"{value:.3f} {name}" for name, value in values.items())
        + (f"; the {chosen} weights" if len(values) > 1 else " weights")
        + (f", loss {format_loss(result.loss)}:" if result.loss else ":")
    )
    print("  " + "\n  ".join(result.lines()), flush=True)
    for warning in result.warnings:
        print(warning)
    best = record.value(result.criterion)
    if result.is_low(best):
        state = {"step": number, "monitor": monitor, "best_ap": best, "aps": values}
        lines = advice.why_so_low(experiment, result, variables, **state)
        print("  " + "\n  ".join(lines), flush=True)
    first = result.criterion
    metrics = result.scalars() | {f"eval/{name}/{first}": x for name, x in values.items()}
    classes = {f"eval/{first}/{name}": x for name, x in result.per_class.items()}
    writer.scalars(number, metrics | classes)
    if result.analysis:
        writer.curves(number, result.analysis)
    pictures.write_detections(number, result.first, result.score_threshold)
    for kind, picture in page.write(number, result).items():
        writer.image(number, f"report/{kind}", picture)
    return metrics, variables


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
