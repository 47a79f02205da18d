"""Compiles for a slice of TPUs that isn't here, with the compiler that would do it there: libtpu.

`jax.experimental.topologies` describes the devices; `lower(…).compile()` over a mesh of them gives
the real program. Nothing can run, everything can be asked.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from effdet_jax.planning.chips import Topology, TopologyError
from effdet_jax.planning.program import Program, inspect, out_of_memory

# libtpu looks for a TPU machine around it unless told where it is. `ALLOW_MULTIPLE…`: no lock on
# the TPU that may really be here, in use by another process.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class LibtpuMissing(RuntimeError):
    """The TPU compiler isn't installed; the message says how to get it."""


def libtpu_version() -> str:
    """'' if it isn't installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return ""


def topology_devices(topology: Topology) -> list[jax.Device]:
    """The devices of a slice, to build a mesh of.

    Raises:
      LibtpuMissing: there is no compiler for it.
      TopologyError: libtpu knows no such slice.
    """
    if not libtpu_version():
        raise LibtpuMissing(
            "to compile for a TPU that isn't here, libtpu has to be; the one for your jax, which "
            f"stays as it is: pip install 'jax[tpu]=={jax.__version__}'"
        )
    with _environment(_ENVIRONMENT):
        try:
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.name, **topology.options
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise TopologyError(f"libtpu knows no slice {topology.name}: {reason}") from error
    return list(described.devices)


def compile(step: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for abstract arguments; a want of memory is a result, too.

    Raises:
      jax.errors.JaxRuntimeError: it failed for another reason.
    """
    started = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        program = out_of_memory(str(error))
        if program is None:
            raise
    else:
        program = inspect(compiled)
    return dataclasses.replace(program, seconds=time.monotonic() - started)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def progress(what: str, *, every: float = 10.0) -> Iterator[None]:
    """Says on stderr what takes so long, and for how long it has."""
    started, done = time.monotonic(), threading.Event()
    terminal = sys.stderr.isatty()

    def tell():
        while not done.wait(1.0 if terminal else every):
            end = "\r" if terminal else "\n"
            print(f"{what} … {time.monotonic() - started:.0f} s", end=end, file=sys.stderr)
            sys.stderr.flush()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
