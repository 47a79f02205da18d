"""Shared by all tests: eight fake CPU devices, and the recorded references where they exist."""

import atexit
import contextlib
import os
import pathlib
import shutil
import tempfile

# Before jax starts: sharding tests need several devices, and a CPU has one.
os.environ["JAX_PLATFORMS"] = "cpu"
# What tests run, they run a few times: compiling it takes longer.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["NPROC"] = "32"  # Threads of XLA's: with one per device, collectives starve each other.
os.environ["XLA_FLAGS"] = " ".join(
    ("--xla_force_host_platform_device_count=8", os.environ.get("XLA_FLAGS", ""))
)
# What the commands compile is kept for this test run alone; its workers share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="effdet_jax-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

import jax
import jax.experimental
import numpy as np
import pytest

# Dtypes that would be mixed by accident are errors. (Ranks aren't: a bias joins [B, H, W, C].)
jax.config.update("jax_numpy_dtype_promotion", "strict")

ROOT = pathlib.Path(__file__).parent.parent
# Recorded outputs of other implementations, and real images: not part of the project.
SHARED = pathlib.Path(os.environ.get("EFFDET_JAX_SHARED", ROOT.parent / "shared"))

# jaxlib 0.7.2 adds up on a CPU one by one, 2.5e-4 off after 4.4 million values; gradients don't mind.
ROUNDING = 0.0 if jax.__version_info__ > (0, 7, 2) else 3e-4


@contextlib.contextmanager
def enable_x64(enabled):
    """64-bit types while within, and mixed dtypes: positions are int32 and `jnp.arange` int64 then."""
    # Under its older name in jax 0.7.
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(enabled), jax.numpy_dtype_promotion("standard"):
        yield


@contextlib.contextmanager
def jax_settings(**values):
    """jax.config with other values while within."""
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def shared(relative: str) -> pathlib.Path:
    """A recorded reference or real data; the test is skipped where it isn't there."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} below EFFDET_JAX_SHARED (default: ../shared)")
    return path


# What has to pass with every Python and jax, in three minutes: the operations, the model, and one
# whole program from training to export. `pytest -m core` runs it.
CORE = ("ops/", "model/", "test_train.py", "convert/test_convert.py", "export/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the core; and what takes longest begins first, so that nothing is left alone with it."""
    for item in items:
        where = item.path.relative_to(ROOT / "tests").as_posix()
        if where.startswith(CORE) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.core)
    long = (
        "test_train.py",
        "test_step.py",
        "test_goldens.py",
        "test_convert.py",
        "test_loop.py",
    )
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def start_command():
    """Starts `python -m effdet_jax.NAME ARGUMENTS`."""
    from tests.processes import command_starter  # Imports the package, to be checked as it is.

    with command_starter() as start:
        yield start


@pytest.fixture(scope="session")
def run_command(start_command):
    """Runs a command to its end: (exit status, output)."""

    def run(name, *arguments, **environment):
        process = start_command(name, *arguments, **environment)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    return run


@pytest.fixture(scope="session")
def trained(run_command, tmp_path_factory):
    """(workdir, output) of a run from start to end."""
    from tests.processes import TINY

    workdir = tmp_path_factory.mktemp("trained") / "run"
    status, output = run_command("train", *TINY, f"--workdir={workdir}")
    assert status == 0, output
    return workdir, output
