"""StableHLO by `jax.export`: one file for CPU, GPU and TPU, any batch size; needs jax to run.

The file holds the program, not yet compiled, and its weights; it has no place for class names and
thresholds. jax promises that a file can be read for six months: keep the checkpoint too.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import jax
import jax.export
import numpy as np

from effdet_jax.export import run_stablehlo
from effdet_jax.export.detector import Function
from effdet_jax.export.verify import ExportError

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: str, function: Function, image_size: tuple[int, int]) -> dict[str, object]:
    """Writes `function` for images of `image_size`; what to know about the file, for its JSON."""
    (batch,) = jax.export.symbolic_shape("B")
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, *image_size, 3), np.uint8),
        jax.ShapeDtypeStruct((batch, 2), np.int32),
    )
    with open(path, "wb") as file:
        file.write(exported.serialize())
    return {
        "format": "jax.export",
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "read": "jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(image, content)",
    }


def run(path: str, batches: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The file's results, computed on the CPU by a new process that has jax and numpy only.

    Raises:
      ExportError: the file can't be read or run there; with that process's last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, batch in enumerate(batches):
            np.savez(os.path.join(folder, f"in_{number}.npz"), **batch)
        done = subprocess.run(
            [sys.executable, "-P", run_stablehlo.__file__, path, folder],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ExportError(f"'{path}' doesn't run: {done.stderr.strip()[-2000:]}")
        results = []
        for number in range(len(batches)):
            with np.load(os.path.join(folder, f"out_{number}.npz")) as arrays:
                results.append(dict(arrays))
        return results
