"""Compiles for a slice of TPUs that isn't here, with the compiler that would do it there: libtpu.

`jax.experimental.topologies` describes the devices; `lower(…).compile()` over a mesh of them makes
the real program, which can't run here. Its memory is known once it is optimised, scheduled and its
buffers are assigned. Generating machine code after that takes most of the time, so the process that
compiles is stopped there.
"""

import contextlib
import dataclasses
import glob
import importlib.metadata
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import topologies

from effdet_jax.compilation import peak_memory
from effdet_jax.errors import UserError
from effdet_jax.libtpu import WITHOUT_TPU
from effdet_jax.plan.chips import Topology, TopologyError
from effdet_jax.plan.program import Program, out_of_memory, reported_peak

# What XLA writes when buffers are assigned, in this order.
_MEMORY_REPORT = "*after_optimizations-memory-usage-report.txt"
_ASSIGNED = "*after_optimizations_after_buffer_assignment.txt"

# Devices → jitted function, its abstract arguments, and whatever else is known of it.
Build = Callable[[list[jax.Device]], tuple[Any, tuple[Any, ...], Any]]


class CompilerError(UserError):
    """The TPU compiler isn't installed, or failed; the message says what to do or what it said."""


def libtpu_version() -> str:
    """'' if it isn't installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return ""


def compile_ahead(build: Build, topology: Topology) -> tuple[Any, Program]:
    """(what `build` says of its function, its program on a slice).

    Args:
      build: called in another process: a function of a module, or a `partial` of one.
      topology: the slice whose devices `build` is given.

    Raises:
      CompilerError: there is no compiler, or it failed for other reasons than memory.
      TopologyError: it knows no such slice.
    """
    if not libtpu_version():
        raise CompilerError(
            "to compile for a TPU that isn't here, libtpu has to be; the one for your jax, which "
            f"stays as it is: pip install 'jax[tpu]=={jax.__version__}'"
        )
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(
            target=_compile_in_child, args=(build, topology, folder, sender), daemon=True
        )
        child.start()
        sender.close()
        try:
            about = _receive(receiver)
            program = _wait(receiver, folder)
        finally:
            child.kill()
            child.join()
    return about, dataclasses.replace(program, seconds=time.monotonic() - started)


def _wait(receiver: multiprocessing.connection.Connection, folder: str) -> Program:
    """The child's result, or what it has written about the program before that."""
    while not receiver.poll(1.0):
        if glob.glob(os.path.join(folder, _ASSIGNED)):
            (report,) = glob.glob(os.path.join(folder, _MEMORY_REPORT))
            with open(report, encoding="utf-8") as memory:
                return Program(reported_peak(memory.read()))
    return _receive(receiver)


def _receive(receiver: multiprocessing.connection.Connection) -> Any:
    try:
        received = receiver.recv()
    except EOFError as error:
        raise CompilerError("the compiler died; was there enough memory for it?") from error
    if isinstance(received, Exception):
        raise received
    return received


def _compile_in_child(build: Build, topology: Topology, folder: str, sender: Any):
    # No lock on the TPU that may really be here, in use by another process.
    os.environ.update(WITHOUT_TPU, ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    # A TPU or GPU that may be here is left alone.
    jax.config.update("jax_platforms", "cpu")
    try:
        step, arguments, about = build(topology_devices(topology))
        sender.send(about)
        sender.send(
            _compile(step, arguments, {"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        )
    except Exception as error:  # noqa: BLE001 (raised again in the parent)
        known = isinstance(error, UserError | ValueError)
        sender.send(error if known else CompilerError(f"{type(error).__name__}: {error}"))


def topology_devices(topology: Topology) -> list[jax.Device]:
    """The devices of a slice, to build a mesh of.

    Raises:
      TopologyError: libtpu knows no such slice.
    """
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **topology.options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TopologyError(f"libtpu knows no slice {topology.name}: {reason}") from error
    return list(described.devices)


def compile_here(build: Build, devices: list[jax.Device]) -> tuple[Any, Program]:
    """The same for devices of this machine, to the end."""
    started = time.monotonic()
    step, arguments, about = build(devices)
    program = _compile(step, arguments, {})
    return about, dataclasses.replace(program, seconds=time.monotonic() - started)


def _compile(step: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Program:
    try:
        compiled = step.lower(*arguments).compile(compiler_options=options or None)
        return Program(peak_memory(compiled))
    except jax.errors.JaxRuntimeError as error:
        program = out_of_memory(str(error))
        if program is None:
            raise
        return program


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
