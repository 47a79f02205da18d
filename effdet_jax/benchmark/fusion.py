"""Softmax and other fusions of features beside fast fusion: the paper's table 6, its times.

python -m effdet_jax.benchmark fusion --config=d0 --task=forward --task=train
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax.benchmark.model import (
    create_batches,
    create_experiment,
    define_task_flags,
    prepare,
)
from effdet_jax.model.initialize import initial_variables
from effdet_jax.model.merge import MERGES

REFERENCE = "fast"
FUSIONS = ("softmax", "sum")
TASKS = ("forward", "detect", "train")
WARMUP = 2


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        **define_task_flags(TASKS, ("forward", "train")),
        "fusions": flags.DEFINE_multi_enum(
            "fusion", FUSIONS, sorted(set(MERGES) - {"attention"}), f"to race with {REFERENCE}"
        ),
    }


def main(
    config: ConfigDict,
    fusions: Sequence[str],
    tasks: Sequence[str],
    batch_size: int,
    rounds: int,
    as_json: bool,
) -> int:
    report = measure(config, fusions, tasks, batch_size=batch_size, rounds=rounds)
    print(json.dumps(report) if as_json else "\n".join(lines(report)))
    return 0


def measure(
    config: ConfigDict,
    fusions: Sequence[str] = FUSIONS,
    tasks: Sequence[str] = TASKS,
    *,
    batch_size: int = 1,
    rounds: int = 20,
) -> dict[str, Any]:
    """Times one model with fast fusion and with each of `fusions`, on the same scenes.

    `rows` has per task and fusion: `median_ms`; `ratio`, the median over rounds of its time by that
    of fast fusion in the same round; `low` and `high`, the quartiles of that ratio.
    """
    names = list(dict.fromkeys((REFERENCE, *fusions)))
    experiments = {name: create_experiment(_changed(config, name), batch_size) for name in names}
    first = experiments[REFERENCE]
    batch = next(create_batches(first))
    rows = []
    for task in tasks:
        calls = {}
        for name, experiment in experiments.items():
            variables = initial_variables(experiment.model)
            calls[name], _, _ = prepare(task, experiment, variables, batch)
        rows += [{"task": task, **row} for row in compare(_take_turns(calls, rounds))]
    return {
        "model": first.spec.name,
        "image_size": list(first.spec.image_size),
        "batch_size": batch_size,
        "dtype": first.dtype.name,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "rounds": rounds,
        "rows": rows,
    }


def _changed(config: ConfigDict, fusion: str) -> ConfigDict:
    config = copy.deepcopy(config)
    config.model.fusion = fusion
    return config


def _take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds per round of each. What else the machine does slows all of a round alike; who begins
    changes from round to round."""
    names, seconds = list(calls), {name: [] for name in calls}
    for name in names * WARMUP:
        calls[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row per fusion from its seconds per round."""
    rows = []
    for name, times in seconds.items():
        ratios = np.divide(times, seconds[REFERENCE])
        low, ratio, high = np.percentile(ratios, [25, 50, 75])
        rows.append(
            {
                "fusion": name,
                "median_ms": round(1e3 * float(np.median(times)), 3),
                "ratio": round(float(ratio), 3),
                "low": round(float(low), 3),
                "high": round(float(high), 3),
            }
        )
    return rows


def lines(report: Mapping[str, Any]) -> list[str]:
    """A Markdown table for people."""
    height, width = report["image_size"]
    title = (
        f"{report['model']} at {height}×{width}, batch {report['batch_size']}, {report['dtype']}, "
        f"{report['device']}, jax {report['jax']}, {report['rounds']} rounds"
    )
    text = [title, "", f"| task | fusion | ms | time by {REFERENCE}'s | half of the rounds |"]
    text.append("| --- | --- | --- | --- | --- |")
    for row in report["rows"]:
        text.append(
            f"| {row['task']} | {row['fusion']} | {row['median_ms']:.1f} | {row['ratio']:.2f} | "
            f"{row['low']:.2f}–{row['high']:.2f} |"
        )
    return text
