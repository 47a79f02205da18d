"""The program that reads a `.stablehlo` file needs nothing of this package: it is run by itself."""

import subprocess
import sys

import jax
import jax.export
import numpy as np

from tests.conftest import ROOT

PROGRAM = ROOT / "effdet_jax" / "export" / "run_stablehlo.py"


def test_results_are_written_beside_the_inputs(tmp_path):
    shapes = jax.ShapeDtypeStruct((2, 3), np.float32), jax.ShapeDtypeStruct((2,), np.int32)
    exported = jax.export.export(jax.jit(lambda a, b: {"sum": a.sum(1) + b.astype(a.dtype)}))(
        *shapes
    )
    (tmp_path / "f.stablehlo").write_bytes(exported.serialize())
    inputs = {"image": np.ones((2, 3), np.float32), "content": np.array([1, 2], np.int32)}
    np.savez(tmp_path / "in_0.npz", **inputs)
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM, tmp_path / "f.stablehlo", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out_0.npz")["sum"], [4.0, 5.0])
