"""Runs beside each other on one page, from what they have written of themselves."""

import os
from collections.abc import Sequence
from typing import Any

from effdet_jax.checkpoint import CheckpointError, find_checkpoint
from effdet_jax.config import flatten
from effdet_jax.errors import UserError
from effdet_jax.model.counts import count_parameters
from effdet_jax.model.detector import Detector
from effdet_jax.report.charts import line_chart
from effdet_jax.report.history import AP, AP50, LOSS, SPEED, VAL_LOSS, History
from effdet_jax.report.page import (
    Cell,
    amount,
    card,
    chart,
    charts_hint,
    number,
    quality,
    row,
    table,
    write_page,
)
from effdet_jax.run.workdir import METRICS, earlier_config


class RunError(UserError):
    """A folder holds no run; the message says what is missing."""


class Run:
    """What a workdir says of its run, without data and without a device.

    Attributes:
      name: the folder as it was given.
      history: its numbers.
      config: flat; empty if the run wrote none.
      parameters: of its model; None without a checkpoint.

    Raises:
      RunError: it holds no numbers of a run.
    """

    def __init__(self, folder: str):
        folder = os.path.expanduser(folder)
        self.name = folder.rstrip("/")
        metrics = os.path.join(folder, METRICS)
        if not os.path.exists(metrics):
            raise RunError(
                f"'{folder}' holds no {METRICS}: it isn't the --workdir of a training that has "
                "written numbers. --curve=runs/a,runs/b"
            )
        self.history = History(metrics)
        self.config: dict[str, Any] = flatten(earlier_config(folder))
        self.parameters = _count_parameters(folder)


def _count_parameters(folder: str) -> int | None:
    try:
        checkpoints = find_checkpoint(folder)
    except CheckpointError:
        return None
    spec = checkpoints.metadata().spec
    checkpoints.close()
    return count_parameters(Detector(spec))


def write_compare_page(path: str, folders: Sequence[str]):
    """Writes the page of several workdirs; one that exists is replaced.

    Raises:
      RunError: one of them holds no run.
    """
    runs = [Run(folder) for folder in folders]
    write_page(
        path,
        " · ".join(run.name for run in runs),
        charts_hint(),
        {"Best": _best(runs), "Curves": _curves(runs), "Settings": _settings(runs)},
    )


def _best(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        best = run.history.best() or {}
        hours = run.history.hours(run.config.get("batch_size", 0))
        _, speeds = run.history.line(SPEED)
        speed = sorted(speeds)[len(speeds) // 2] if speeds else None
        rows.append(
            [
                Cell(run.name),
                quality(best.get(AP, -1.0)),
                quality(best.get(AP50, -1.0)),
                amount(best.get("step", 0)),
                amount(run.history.step),
                Cell(_duration(hours), hours or 0.0),
                Cell(number(speed, 1), speed or 0.0),
                Cell(number(run.parameters, 0), run.parameters or 0),
            ]
        )
    headings = ["run", "best AP", "AP50", "at step", "steps", "time", "images/s", "parameters"]
    note = (
        "The evaluation with the highest AP. Time is that of the training steps, by their speed; "
        "images/s are the median."
    )
    return card("Best evaluation of each run", table(headings, rows, sortable=True), note)


def _duration(hours: float | None) -> str:
    if hours is None:
        return "–"
    return f"{60 * hours:.1f} min" if hours < 1.5 else f"{hours:.1f} h"


def _curves(runs: Sequence[Run]) -> str:
    def lines(metric: str) -> dict[str, Any]:
        return {run.name: run.history.line(metric) for run in runs}

    return row(
        chart("AP", "By step.", line_chart(lines(AP), "step", "AP", share=True)),
        chart(
            "Validation loss",
            "Comparable where the losses are made alike.",
            line_chart(lines(VAL_LOSS), "step", "loss", log=True),
        ),
        chart(
            "Training loss",
            "Augmentation makes it larger than that of validation.",
            line_chart(lines(LOSS), "step", "loss", log=True),
        ),
        chart(
            "Images per second",
            "Of training alone.",
            line_chart(lines(SPEED), "step", "images/s"),
        ),
    )


def _settings(runs: Sequence[Run]) -> str:
    """The knobs in which the runs differ."""
    knobs = list(dict.fromkeys(knob for run in runs for knob in run.config))
    rows = []
    for knob in knobs:
        values = [str(run.config.get(knob, "–")) for run in runs]
        if len(set(values)) > 1:
            rows.append([Cell(knob), *values])
    body = table(["setting", *(run.name for run in runs)], rows) or "<p>Nothing differs.</p>"
    return card("Where the runs differ", body)
