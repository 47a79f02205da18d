"""The process of one contestant: JSON lines in, JSON lines out; started by `contestant`.

It keeps to what it is told: prepare (first line), then run for so many seconds per line, then end.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from effdet_jax.benchmark.race.case import Case, file_stem

WARMUP_RUNS = 2


def contestant_module(name: str) -> ModuleType:
    """The module of a contestant.

    Its `prepare(name, case, folder)` gives a call that runs the case once and waits for it, and what
    that computes, as a numpy array; `gpu_peak_mib()`, if it knows GPUs, the most it took of one.
    """
    if name.startswith("effdet_jax"):
        from effdet_jax.benchmark.race import jax_peer as module
    elif name == "ONNX Runtime":
        from effdet_jax.benchmark.race import onnx_peer as module
    else:
        from effdet_jax.benchmark.race import torch_peer as module
    return module


def main() -> None:
    job = json.loads(sys.stdin.readline())
    folder = pathlib.Path(job["folder"])
    case = Case.from_dict(job["case"])
    started = time.perf_counter()
    module = contestant_module(job["name"])
    call, result = module.prepare(job["name"], case, folder)
    call()
    first_seconds = time.perf_counter() - started
    path = folder / f"{file_stem(job['name'])}.npy"
    np.save(path, result)
    for _ in range(WARMUP_RUNS):
        call()
    _forget_peak()
    _answer(result=str(path), first_seconds=first_seconds)
    for line in sys.stdin:
        message = json.loads(line)
        if "end" in message:
            _answer(peak_mib=_peak_mib() if case.device == "cpu" else module.gpu_peak_mib())
            return
        _answer(milliseconds=_turn(call, message["seconds"]))


def _turn(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each run; one before them wakes the worker threads and isn't counted."""
    call()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 2:
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    return times


def _forget_peak() -> None:
    """Compilers take more memory than what they compile: the peak starts anew (Linux only)."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_mib() -> float | None:
    """Largest resident memory since `_forget_peak`; None where the system doesn't tell."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
