"""Speed and memory of a model on this machine: forward, detection, train step, input pipeline.

python -m effdet_jax.benchmark --config=configs/d0.py --batch_size=8
"""

import json
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import COCO
from effdet_jax.cli import define_config_flag
from effdet_jax.compilation import peak_memory
from effdet_jax.data.pipeline import train_batches
from effdet_jax.data.synthetic import Shapes
from effdet_jax.detection.objective import create_objective
from effdet_jax.distributed.mesh import make_mesh, place_batch
from effdet_jax.experiment import optimizer_of
from effdet_jax.inference.predictor import create_detect
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import initial_variables
from effdet_jax.training.optimizer import learning_rate_schedule
from effdet_jax.training.state import TrainState, create_state
from effdet_jax.training.step import create_train_step

BURST = 16
WORKS = ("forward", "detect", "train", "input")


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "works": flags.DEFINE_multi_enum("work", list(WORKS), WORKS, "what to measure"),
        "batch_size": flags.DEFINE_integer("batch_size", 1, "images at a time", lower_bound=1),
        "rounds": flags.DEFINE_integer("rounds", 20, "measured runs of each", lower_bound=2),
        "warmup": flags.DEFINE_integer("warmup", 2, "runs before that", lower_bound=1),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    config: ConfigDict,
    works: Sequence[str],
    batch_size: int,
    rounds: int,
    warmup: int,
    as_json: bool,
) -> int:
    report = benchmark(config, works, batch_size=batch_size, rounds=rounds, warmup=warmup)
    print(json.dumps(report) if as_json else "\n".join(_table(report)))
    return 0


def benchmark(
    config: ConfigDict,
    works: Sequence[str] = WORKS,
    *,
    batch_size: int = 1,
    rounds: int = 20,
    warmup: int = 2,
) -> dict[str, Any]:
    """Times each of `works` with real data from `config`'s 'shapes' source at the model's size.

    `rows` has per work: `compile_s`, `median_ms`, `p95_ms`, `images_per_second`, `peak_mib` (of the
    compiled program: arguments, results and temporaries).
    """
    spec = configs.spec_of(config, len(COCO))
    model = Detector(spec, COCO, configs.compute_dtype(config))
    source = Shapes(spec.image_size, batch_size * 8, endless=True)
    batches = train_batches(
        source,
        configs.augment_settings(config, spec.image_size),
        batch_size=batch_size,
        max_boxes=config.data.max_boxes,
        workers=config.data.workers,
        threads=config.data.threads,
    )
    mesh = make_mesh(batch_size, devices=jax.devices()[:1])
    optimizer = optimizer_of(config, model)
    state = None
    rows = []
    for work in works:
        if work == "input":
            # Batches come ahead of time and in bursts: only many of them show the rate.
            seconds = _time(lambda: [next(batches) for _ in range(BURST)], rounds, warmup)
            rows.append(_row(work, batch_size, [total / BURST for total in seconds]))
            continue
        state = state or create_state(initial_variables(model, config.seed), optimizer, mesh)
        batch = place_batch(next(batches), mesh)
        call, compiled, compile_seconds = _prepare(work, config, model, state, batch)
        seconds = _time(call, rounds, warmup)
        rows.append(_row(work, batch_size, seconds, compiled, compile_seconds))
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


def _prepare(
    work: str,
    config: ConfigDict,
    model: Detector,
    state: TrainState,
    batch: Mapping[str, jax.Array],
) -> tuple[Callable[[], Any], Any, float]:
    """(a call that runs `work` once and waits for it, the compiled program, seconds to compile)."""
    if work == "train":
        rate = learning_rate_schedule(
            "constant", peak=1e-4, warmup_init=0.0, warmup_steps=0, total_steps=1
        )
        mesh = batch["image"].sharding.mesh
        optimizer = optimizer_of(config, model)
        objective = create_objective(model.spec, config.loss)
        step = create_train_step(model, objective, optimizer, rate, mesh)
        compiled, seconds = _compile(step, state, batch)
        held = [jax.tree.map(jnp.copy, state)]  # The step takes its memory.

        def train_once():
            held[0], metrics = compiled(held[0], batch)
            return jax.block_until_ready((held[0], metrics))

        return train_once, compiled, seconds
    if work == "forward":
        images = batch["image"].astype(model.dtype)
        compiled, seconds = _compile(jax.jit(model.apply), state.ema, images)
        return lambda: jax.block_until_ready(compiled(state.ema, images)), compiled, seconds
    batch_size = len(batch["image"])
    size = np.tile(np.float32(model.spec.image_size), (batch_size, 1))
    inputs = {
        "image": batch["image"],
        "content": batch["content"],
        "scale": np.ones(batch_size, np.float32),
        "size": size,
    }
    detect = jax.jit(create_detect(model, **configs.detect_options(config)))
    compiled, seconds = _compile(detect, state.ema, inputs)
    return lambda: jax.block_until_ready(compiled(state.ema, inputs)), compiled, seconds


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
    work: str,
    batch_size: int,
    seconds: Sequence[float],
    compiled: Any = None,
    compile_seconds: float | None = None,
) -> dict[str, Any]:
    median = float(np.median(seconds))
    row = {
        "work": work,
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
    columns = ("work", "compile_s", "median_ms", "p95_ms", "images_per_second", "peak_mib")
    lines = [title, "".join(f"{column:>19s}" for column in columns)]
    for row in report["rows"]:
        cells = ("—" if row[column] is None else str(row[column]) for column in columns)
        lines.append("".join(f"{cell:>19s}" for cell in cells))
    return [*lines, f"peak memory of the process {report['process_peak_mib']} MiB"]
