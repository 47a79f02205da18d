"""Speed and memory of a model on this machine: forward, detection, train step, input pipeline.

python -m effdet_jax.benchmark --config=configs/d0.py --batch_size=8
"""

import copy
import json
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax.benchmark.step import CompiledStep
from effdet_jax.classes import COCO
from effdet_jax.cli import define_config_flag
from effdet_jax.compilation import peak_memory
from effdet_jax.data.pipeline import Batch, train_batches
from effdet_jax.data.synthetic import Shapes
from effdet_jax.distributed.mesh import place_batch, replicate
from effdet_jax.experiment import Experiment
from effdet_jax.inference.predictor import create_detect
from effdet_jax.model.initialize import initial_variables

BURST = 16
TASKS = ("forward", "detect", "train", "input")


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        **define_task_flags(TASKS, TASKS),
        "warmup": flags.DEFINE_integer("warmup", 2, "runs before that", lower_bound=1),
    }


def define_task_flags(known: Sequence[str], default: Sequence[str]) -> dict[str, flags.FlagHolder]:
    """What is measured, and how often; `known` tasks, of which `default` if none is named."""
    return {
        "config": define_config_flag(required=True),
        "tasks": flags.DEFINE_multi_enum("task", list(default), list(known), "what to measure"),
        "batch_size": flags.DEFINE_integer("batch_size", 1, "images at a time", lower_bound=1),
        "rounds": flags.DEFINE_integer("rounds", 20, "measured runs of each", lower_bound=2),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    config: ConfigDict,
    tasks: Sequence[str],
    batch_size: int,
    rounds: int,
    warmup: int,
    as_json: bool,
) -> int:
    report = benchmark(config, tasks, batch_size=batch_size, rounds=rounds, warmup=warmup)
    print(json.dumps(report) if as_json else "\n".join(_table(report)))
    return 0


def benchmark(
    config: ConfigDict,
    tasks: Sequence[str] = TASKS,
    *,
    batch_size: int = 1,
    rounds: int = 20,
    warmup: int = 2,
) -> dict[str, Any]:
    """Times each of `tasks` with data of the 'shapes' source at the model's size.

    `rows` has per task: `compile_s`, `median_ms`, `p95_ms`, `images_per_second`, `peak_mib` (of the
    compiled program: arguments, results and temporaries).
    """
    experiment = create_experiment(config, batch_size)
    spec, model = experiment.spec, experiment.model
    batches = create_batches(experiment)
    variables, batch = initial_variables(model), next(batches)
    rows = []
    for task in tasks:
        if task == "input":
            # Batches come ahead of time and in bursts: only many of them show the rate.
            seconds = _time(lambda: [next(batches) for _ in range(BURST)], rounds, warmup)
            rows.append(_row(task, batch_size, [total / BURST for total in seconds]))
            continue
        call, compiled, compile_seconds = prepare(task, experiment, variables, batch)
        seconds = _time(call, rounds, warmup)
        rows.append(_row(task, batch_size, seconds, compiled, compile_seconds))
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "batch_size": batch_size,
        "dtype": np.dtype(model.dtype).name,
        "device": jax.devices()[0].device_kind,
        "machine": platform.platform(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": rows,
    }


def create_experiment(config: ConfigDict, batch_size: int) -> Experiment:
    """The config on one device, without its data."""
    config = copy.deepcopy(config)
    config.batch_size = batch_size
    return Experiment.from_config(
        config, devices=jax.devices()[:1], class_names=COCO, num_examples=100 * batch_size
    )


def create_batches(experiment: Experiment) -> Iterator[Batch]:
    """Scenes of the experiment's size, augmented as it says."""
    settings, data = experiment.augment_settings, experiment.asked.data
    masks = "masks" in experiment.objective.needs
    return train_batches(
        Shapes(settings.image_size, experiment.batch_size * 8, endless=True, masks=masks),
        settings,
        batch_size=experiment.batch_size,
        max_boxes=experiment.data_fit.max_boxes,
        masks=masks,
        workers=data.workers,
        threads=data.threads,
    )


def prepare(
    task: str, experiment: Experiment, variables: Any, batch: Batch
) -> tuple[Callable[[], Any], Any, float]:
    """(a call that runs `task` once and waits for it, the compiled program, seconds to compile)."""
    model, mesh = experiment.model, experiment.mesh
    placed = place_batch(batch, mesh)
    if task == "train":
        step = CompiledStep(experiment.step, experiment.optimizer, variables, batch, mesh)
        return lambda: step(placed), step.compiled, step.compile_seconds
    variables = replicate(variables, mesh)
    if task == "forward":
        function, inputs = model.apply, placed["image"].astype(model.dtype)
    else:
        count = len(batch["image"])
        function = create_detect(model, **experiment.detect_options)
        inputs = {
            "image": placed["image"],
            "content": placed["content"],
            "scale": np.ones(count, np.float32),
            "size": np.tile(np.float32(model.spec.image_size), (count, 1)),
        }
    compiled, seconds = _compile(jax.jit(function), variables, inputs)
    return lambda: jax.block_until_ready(compiled(variables, inputs)), compiled, seconds


def _compile(function: Any, *arguments: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - started


def _time(call: Callable[[], Any], rounds: int, warmup: int) -> list[float]:
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def _row(
    task: str,
    batch_size: int,
    seconds: Sequence[float],
    compiled: Any = None,
    compile_seconds: float | None = None,
) -> dict[str, Any]:
    median = float(np.median(seconds))
    row = {
        "task": task,
        "compile_s": compile_seconds and round(compile_seconds, 2),
        "median_ms": round(1e3 * median, 3),
        "p95_ms": round(1e3 * float(np.percentile(seconds, 95)), 3),
        "images_per_second": round(batch_size / median, 2),
        "peak_mib": None,
    }
    if compiled is not None:
        row["peak_mib"] = round(peak_memory(compiled) / 2**20, 1)
    return row


def _table(report: Mapping[str, Any]) -> list[str]:
    height, width = report["image_size"]
    title = (
        f"{report['model']} at {height}×{width}, batch {report['batch_size']}, {report['dtype']}, "
        f"{report['device']}, jax {report['versions']['jax']}"
    )
    columns = ("task", "compile_s", "median_ms", "p95_ms", "images_per_second", "peak_mib")
    lines = [title, "".join(f"{column:>19s}" for column in columns)]
    for row in report["rows"]:
        cells = ("—" if row[column] is None else str(row[column]) for column in columns)
        lines.append("".join(f"{cell:>19s}" for cell in cells))
    return [*lines, f"peak memory of the process {report['process_peak_mib']} MiB"]
