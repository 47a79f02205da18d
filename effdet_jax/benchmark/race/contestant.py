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
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from effdet_jax.benchmark.race.case import Case, file_stem
from effdet_jax.errors import UserError

RUNNER = "effdet_jax.benchmark.race.runner"
REST_SECONDS = 0.3  # After a turn: worker threads of the last contestant stop spinning.


class RaceError(UserError):
    """A contestant could not be started, died, or computed something else than the others."""


class Contestant:
    """A process that has prepared a case and runs it when told to; see `runner`.

    Args:
      name: which of them, see `runner.contestant_module`.
      case: what it runs.
      folder: with the case's files; its log is written there.
      package: folder that holds the `effdet_jax` to run, this one if not given.

    Raises:
      RaceError: it ended.
    """

    def __init__(
        self, name: str, case: Case, folder: pathlib.Path, package: pathlib.Path | None = None
    ):
        self.name = name
        self.milliseconds: list[list[float]] = []  # Per turn, per run.
        self._log = folder / f"{file_stem(name)}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", RUNNER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | case.environment,
                cwd=package,  # `-m` looks there first.
            )
        job = {"name": name, "case": dataclasses.asdict(case), "folder": str(folder)}
        ready = self._ask(job)
        self.result = np.load(ready["result"])
        self.first_seconds: float = ready["first_seconds"]
        self.peak_mib = 0.0

    def run(self, seconds: float) -> None:
        """One turn: runs of the case for so long, at least two of them."""
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
        raise RaceError(f"'{self.name}' ended with {self._process.wait()}:\n{last}")


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
