"""Image files to training batches: images per second of one core, and with worker processes.

python -m effdet_jax.benchmark input --config=configs/d0.py --config.data.dir=coco --workers=1,2,4
"""

import functools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax.cli import define_config_flag
from effdet_jax.config import ConfigError
from effdet_jax.data.augment import Augment
from effdet_jax.data.example import Source
from effdet_jax.data.pipeline import Batch, draw_sample, train_batches
from effdet_jax.data.sample import AugmentSettings, create_sample
from effdet_jax.experiment import Experiment


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "workers": flags.DEFINE_list("workers", ["0", "1", "2"], "numbers of processes to try"),
        "batch_size": flags.DEFINE_integer("batch_size", 16, "images of a batch", lower_bound=1),
        "seconds": flags.DEFINE_float("seconds", 10.0, "of each measurement", lower_bound=0.1),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    config: ConfigDict, workers: Sequence[str], batch_size: int, seconds: float, as_json: bool
) -> int:
    if not all(number.isdecimal() for number in workers):
        raise ConfigError(f"--workers={','.join(workers)} are no numbers; try 0,1,2")
    report = rates(config, [int(number) for number in workers], batch_size, seconds)
    print(json.dumps(report) if as_json else "\n".join(lines(report)))
    return 0


def rates(
    config: ConfigDict, workers: Sequence[int], batch_size: int, seconds: float
) -> dict[str, Any]:
    """`core`: images per second of processor time of reading with decoding, of augmenting, and of
    both. `pipeline`: a row per number of workers with images_per_second of whole batches.

    Raises:
      ConfigError, DataError: the config or its training data can't be used.
    """
    experiment = Experiment.from_config(config)
    source, settings = experiment.train_source, experiment.augment_settings
    options = {
        "batch_size": batch_size,
        "max_boxes": experiment.data_fit.max_boxes,
        "masks": "masks" in experiment.objective.needs,
        "threads": config.data.threads,
    }
    rows = []
    for number in workers:
        batches = train_batches(source, settings, workers=number, **options)
        # Workers run ahead: what they have done before the first batch came isn't counted again.
        for _ in range(2 * (number + config.data.threads) + 1):
            next(batches)
        rows.append({"workers": number, "images_per_second": round(_rate(batches, seconds), 1)})
    return {
        "image_size": list(settings.image_size),
        "images": len(source),
        "batch_size": batch_size,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "core": _core(source, settings, seconds),
        "pipeline": rows,
    }


def _rate(batches: Iterator[Batch], seconds: float) -> float:
    """Images per second of wall clock."""
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += len(next(batches)["image"])
    return done / (time.perf_counter() - started)


def _core(source: Source, settings: AugmentSettings, seconds: float) -> dict[str, float]:
    """Images per second of processor time, on one thread."""
    rng = np.random.default_rng(0)
    augment, draw = Augment(settings), functools.partial(draw_sample, source, rng)
    read = augmented = 0.0
    count = 0
    while read + augmented < seconds:
        started = time.thread_time()
        example = source[int(rng.integers(len(source)))]
        decoded = time.thread_time()
        augment(create_sample(example), rng, draw)
        read += decoded - started
        augmented += time.thread_time() - decoded
        count += 1
    return {
        "read": round(count / read, 1),
        "augment": round(count / augmented, 1),
        "both": round(count / (read + augmented), 1),
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """Tables for people."""
    height, width = report["image_size"]
    core, cores, batch_size = report["core"], report["cores"], report["batch_size"]
    text = [
        f"{report['images']} images to {height}×{width}, batches of {batch_size}, {cores} cores",
        "images per second of one core: {read} read, {augment} augmented, {both} both".format(
            **core
        ),
    ]
    for row in report["pipeline"]:
        text.append(f"{row['workers']} workers: {row['images_per_second']} images per second")
    return text
