"""Commands in processes of their own, as a user runs them, on the smallest network."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from tests.quick import QUICK_FLAGS
from tests.tiny import TINY_MODEL

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    f"--config={ROOT}/configs/shapes.py:smoke",
    *(f"--config.model.{knob}={value}" for knob, value in TINY_MODEL.items()),
    "--config.data.shapes_size=64",
    "--config.data.shapes_train=16",
    "--config.batch_size=4",
    "--config.num_steps=12",
    "--config.eval.every_epochs=1.0",  # Evaluated and saved every 4 steps.
)
# One device; the compilation cache of the whole test run, which `conftest` makes.
ENVIRONMENT = os.environ | {
    "XLA_FLAGS": QUICK_FLAGS,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONUNBUFFERED": "1",
}


@contextlib.contextmanager
def command_starter():
    """`start(NAME, ARGUMENTS…)` starts `python -m effdet_jax.NAME`; what still runs in the end is
    killed."""
    processes = []

    def start(name, *arguments, **changes):
        process = subprocess.Popen(
            [sys.executable, "-m", f"effdet_jax.{name}", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT | changes,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def rows(workdir):
    """metrics.jsonl without what depends on the clock."""
    clock = ("perf/images_per_second", "data/wait_fraction")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in clock}
        for line in lines
    ]


def wait_for(condition, seconds=300):
    """Returns once `condition()` is true."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came to that"
        time.sleep(0.01)
