"""A run's compiled step on disk: its next start neither traces nor compiles it."""

import contextlib
import hashlib
import json
import os
import pickle
import sys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from effdet_jax.compilation import TwoPrograms, compile_for, instructions, processors, source_hash
from effdet_jax.files import written_whole

# What XLA compiles by besides jax's settings.
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC")
KEPT_STEPS = 16  # Files; the one not used for longest goes first.


class KeptStep:
    """The compiled step of a run, as an earlier start may have left it.

    It lies beside the programs that jax keeps, and only where jax keeps any; like those it must lie
    where nobody else writes, for what is read is run. Several processes keep none: all must run the
    same program, and each would find its own.

    Args:
      key: all that the step follows from, as JSON; versions, the package's own code, jax's settings,
        the devices and their order are added.
      mesh: of the step.

    Attributes:
      path: of the file, '' where nothing is kept.
    """

    def __init__(self, key: Mapping[str, Any], mesh: Mesh):
        self._devices = list(mesh.devices.flat)
        self.path = _path(key, mesh)
        self._reading: Future | None = None

    def read(self):
        """Begins to read it, in the background, if it is there."""
        if os.path.exists(self.path):
            pool = ThreadPoolExecutor(1)
            self._reading = pool.submit(self._read)
            pool.shutdown(wait=False)

    def get(self, *arguments: Any) -> Any:
        """The step that was read, or None: there is none, or none for such arguments, and that is said."""
        if self._reading is None:
            return None
        try:
            step = self._reading.result()
            _check_arguments(step, arguments)
        except Exception as error:  # noqa: BLE001 (whatever it is, the step can be compiled)
            print(f"warning: the compiled step at '{self.path}' can't be used: {error!r}")
            return None
        return step

    def compile(self, step: Any, *arguments: Any) -> Any:
        """`step` compiled for the arguments, so that it can be kept."""
        if not self.path:
            return compile_for(step, *arguments)
        with _without_cache():
            return compile_for(step, *arguments)

    def keep(self, compiled: Any):
        """Writes what `compile` has returned, for the next start; says if that can't be done."""
        if not self.path:
            return
        try:
            self._write(compiled)
        except Exception as error:  # noqa: BLE001 (a full disk, devices that can't serialise, …)
            print(f"warning: the compiled step isn't kept for the next start: {error!r}")

    def _write(self, compiled: Any):
        parts = []
        for part in _parts(compiled):
            program, *trees = serialize_executable.serialize(part)
            # Of a tree that can't be pickled its leaves' numbers in their places.
            parts.append((program, *(tree.unflatten(range(tree.num_leaves)) for tree in trees)))
        folder = os.path.dirname(self.path)
        os.makedirs(folder, exist_ok=True)
        with written_whole(self.path, "wb") as file:
            file.write(zlib.compress(pickle.dumps(parts), level=1))
        with contextlib.suppress(FileNotFoundError):  # Another process has removed it.
            files = [entry for entry in os.scandir(folder) if entry.name.endswith(".step")]
            for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[:-KEPT_STEPS]:
                os.remove(entry.path)

    def _read(self) -> Any:
        with open(self.path, "rb") as file:
            parts = pickle.loads(zlib.decompress(file.read()))
        with contextlib.suppress(PermissionError):
            os.utime(self.path)
        with ThreadPoolExecutor(len(parts)) as pool:
            loaded = list(pool.map(self._load, parts))
        return TwoPrograms(*loaded) if len(loaded) > 1 else loaded[0]

    def _load(self, part: tuple[bytes, Any, Any]) -> Any:
        program, *numbers = part
        return serialize_executable.deserialize_and_load(
            program,
            *map(jax.tree.structure, numbers),
            backend=self._devices[0].client,
            execution_devices=self._devices,
        )


def _parts(compiled: Any) -> tuple[Any, ...]:
    return tuple(compiled) if isinstance(compiled, TwoPrograms) else (compiled,)


def _path(key: Mapping[str, Any], mesh: Mesh) -> str:
    """Of the step's file, '' if none is to be kept."""
    folder = jax.config.jax_compilation_cache_dir
    if not folder or "://" in folder or not jax.config.jax_enable_compilation_cache:
        return ""
    if jax.process_count() > 1:
        return ""
    devices = list(mesh.devices.flat)
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    whole = {
        "step": key,
        "code": source_hash(),
        "versions": [sys.version, *map(metadata.version, packages)],
        "platform": [devices[0].client.platform_version, devices[0].device_kind, instructions()],
        "mesh": [dict(mesh.shape), [device.id for device in devices]],
        "jax": jax.config.values,
        "environment": [os.environ.get(name) for name in ENVIRONMENT],
        "processors": processors(),  # For so many a CPU's program divides its work.
    }
    text = json.dumps(whole, sort_keys=True, default=repr)
    return os.path.join(folder, "steps", hashlib.sha256(text.encode()).hexdigest()[:24] + ".step")


def _check_arguments(step: Any, arguments: tuple[Any, ...]):
    """Raises ValueError if `step` was compiled for others: the key has missed something."""
    expected, given = _parts(step)[0].args_info, (arguments, {})
    if jax.tree.structure(expected) != jax.tree.structure(given):
        raise ValueError("it takes another state or batch")
    for (path, wanted), leaf in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(given)):
        if (wanted.shape, wanted.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"it takes {wanted.dtype}{list(wanted.shape)} for {jax.tree_util.keystr(path)}, "
                f"not {leaf.dtype}{list(leaf.shape)}"
            )


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """jax neither reads nor writes its own cache: a CPU program out of it can't be serialised again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
