"""How XLA compiles for a mesh's devices, and compiled programs kept on disk for the next start."""

import contextlib
import functools
import gc
import hashlib
import os
import pathlib
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

# On a CPU code is slow to generate. A tenth less to compile, and no slower to run:
_ON_CPU = {"xla_llvm_disable_expensive_passes": True}
# Half of the time to compile, for what runs once:
_ONCE_ON_CPU = {**_ON_CPU, "xla_backend_optimization_level": 0}
# YNNPACK for sums alone, not for matrix products: a training step is as fast with Eigen's, and loads
# sooner, for each that is YNNPACK's is looked up among all instructions.
_SUMS_BY_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options(mesh: Mesh, *, once: bool = False) -> dict[str, Any] | None:
    """For `jax.jit`; None leaves all to XLA. `once`: of a program that isn't run again and again."""
    if not on_cpu(mesh):
        return None
    if once:
        return _ONCE_ON_CPU
    return {**_ON_CPU, **(_SUMS_BY_YNNPACK if _has_ynnpack_option() else {})}


@functools.cache
def _has_ynnpack_option() -> bool:
    """An experimental option is new (jaxlib 0.7 hasn't it) and may go; XLA refuses what it doesn't know."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        try:
            jax.jit(lambda: 0).lower().compile(_SUMS_BY_YNNPACK)
        except jax.errors.JaxRuntimeError:
            return False
    return True


def on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


class TwoPrograms(NamedTuple):
    """`second(state, *first(state, batch))` in two programs; lowered, compiled, called like one.

    XLA takes more than twice as long for twice as many operations on a CPU, to compile them as well
    as to load what is compiled, and one thread for most of it. Two halves take one each.
    """

    first: Any
    second: Any

    def __call__(self, state: Any, batch: Any) -> Any:
        return self.second(state, *self.first(state, batch))

    def lower(self, state: Any, batch: Any) -> "TwoPrograms":
        first = self.first.lower(state, batch)
        between = jax.eval_shape(self.first, state, batch)
        return TwoPrograms(first, self.second.lower(state, *between))

    def compile(self, compiler_options: dict[str, Any] | None = None) -> "TwoPrograms":
        with ThreadPoolExecutor(2) as pool:
            return TwoPrograms(*pool.map(lambda half: half.compile(compiler_options), self))


def peak_memory(compiled: Any) -> int:
    """Bytes that a compiled function takes at its peak: arguments, results, temporaries.

    `peak_memory_in_bytes`, where a backend has it, leaves out gaps between buffers.
    """
    if isinstance(compiled, TwoPrograms):
        return max(map(peak_memory, compiled))
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def compile_for(function: Any, *arguments: Any, options: dict[str, Any] | None = None) -> Any:
    """A jitted function compiled for its arguments, with XLA's options."""
    with no_garbage_collection():
        lowered = function.lower(*arguments)
    return lowered.compile(compiler_options=options)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For tracing: Python's collector takes up to a fifth of the time.

    It looks through ever more objects that are all in use.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def cache_folder() -> str:
    """Where what takes long to compile is kept: `~/.cache/effdet_jax`, or below $XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "effdet_jax")


def keep_programs():
    """Lets jax keep what took a second or more to compile in the `cache_folder`.

    Not if jax has been told where to (`JAX_COMPILATION_CACHE_DIR`), or not to
    (`JAX_ENABLE_COMPILATION_CACHE=0`). Processors with other instructions have another folder: jax
    doesn't tell them apart, and a home may be shared by many machines.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = os.path.join(cache_folder(), "programs", instructions())
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return  # A home that can't be written: every start compiles.
    jax.config.update("jax_compilation_cache_dir", folder)


def instructions() -> str:
    """A short name for what this processor can execute."""
    known = platform.machine() + platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            known += next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass  # Not Linux.
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def processors() -> int:
    """How many of this machine's the process may use."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def source_hash(sources: Iterable[str] = ("",)) -> str:
    """Of the package's own Python files, or of those and folders given."""
    root = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for source in sources:
        path = root / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
