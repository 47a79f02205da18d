"""Contestants in processes of their own that run in turns, so that their ratios can be trusted.

A busy or a throttled machine slows all of them alike; absolute times of two separate runs say
little. What others take of the processor meanwhile is measured, and reported with the times.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from effdet_jax.errors import UserError

# Files in the folder that all contestants of a work read.
WEIGHTS, INPUTS, ONNX = "weights.safetensors", "inputs.npz", "model.onnx"
REST_SECONDS = 0.3  # After a turn: worker threads of the last contestant stop spinning.


class ContestError(UserError):
    """A contestant could not be started, died, or computed something else than the others."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is raced over.

    Attributes:
      task: 'forward', 'detect', 'postprocess' or 'train'.
      model: name without its family, such as 'd0'.
      batch_size: images at a time.
      image_size: (height, width) of the network's input.
      device: 'cpu' or 'gpu'.
      dtype: what the network computes in: 'float32' or 'bfloat16'.
    """

    task: str
    model: str
    batch_size: int
    image_size: tuple[int, int]
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Work":
        """The work whose fields came through JSON, which has no tuples."""
        return cls(**{**fields, "image_size": tuple(fields["image_size"])})

    @property
    def title(self) -> str:
        height, width = self.image_size
        size = str(height) if height == width else f"{height}×{width}"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.task} {self.model} {size} batch {self.batch_size}{dtype}"

    @property
    def environment(self) -> dict[str, str]:
        """What its processes find set: all of them compute on the same device and share its memory."""
        if self.device == "cpu":
            return {"JAX_PLATFORMS": "cpu"}
        return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Contestant:
    """A process that has prepared a work and runs it when told to; see `runner`."""

    def __init__(self, name: str, work: Work, folder: pathlib.Path):
        self.name = name
        self.milliseconds: list[list[float]] = []  # Per turn, per run.
        self._log = folder / f"{name.replace(' ', '-')}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "effdet_jax.benchmark.race.runner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | work.environment,
            )
        job = {"name": name, "work": dataclasses.asdict(work), "folder": str(folder)}
        ready = self._ask(job)
        self.result = np.load(ready["result"])
        self.first_seconds: float = ready["first_seconds"]
        self.peak_mib = 0.0

    def run(self, seconds: float) -> None:
        """One turn: runs of the work for so long, at least two of them."""
        self.milliseconds.append(self._ask({"seconds": seconds})["milliseconds"])

    @property
    def median(self) -> float:
        """Milliseconds: the median over turns of a turn's median."""
        return float(np.median([np.median(turn) for turn in self.milliseconds]))

    def finish(self) -> None:
        """Ends the process; `peak_mib` is then what it needed while it ran."""
        self.peak_mib = self._ask({"end": True})["peak_mib"]
        self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It died; why stands in its log.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        last = "\n".join(self._log.read_text().splitlines()[-12:])
        raise ContestError(f"'{self.name}' ended with {self._process.wait()}:\n{last}")


def by_anchor(levels: Iterable[np.ndarray], last: int) -> np.ndarray:
    """[B, H, W, …] per level → [B, N, last], the same order of anchors for all contestants."""
    return np.concatenate([x.reshape(len(x), -1, last) for x in levels], 1)


def as_result(
    class_levels: Iterable[np.ndarray], box_levels: Iterable[np.ndarray], num_classes: int = 90
) -> np.ndarray:
    """All of a network's outputs, [B, H, W, …] per level, as one float32 vector to compare."""
    parts = by_anchor(class_levels, num_classes), by_anchor(box_levels, 4)
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Load:
    """Share of all processors that other programs used during the turns: median and largest."""

    median: float
    largest: float


def race(contestants: Sequence[Contestant], *, turns: int, seconds: float) -> Load:
    """All contestants in turns; their times are in them afterwards."""
    foreign = []
    for _ in range(turns):
        for contestant in contestants:
            time.sleep(REST_SECONDS)
            before = _processor_seconds()
            contestant.run(seconds)
            busy, own, wall = (b - a for a, b in zip(before, _processor_seconds()))
            foreign.append(max(busy - own, 0.0) / (wall * os.cpu_count()))
    return Load(float(np.median(foreign)), float(np.max(foreign)))


def _processor_seconds() -> tuple[float, float, float]:
    """(seconds all processors were busy, of those this process and its children, wall clock)."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    busy = sum(times[:8]) - idle if sys.platform == "linux" else sum(times) - idle
    own = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        own += used.user + used.system
    return busy, own, time.perf_counter()
