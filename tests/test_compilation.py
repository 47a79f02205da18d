import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from effdet_jax import compilation
from tests.conftest import jax_settings


@pytest.fixture
def no_folder_yet():
    with jax_settings(jax_compilation_cache_dir=None):
        yield


PROGRAM = """
import jax
from effdet_jax.compilation import enable_compilation_cache
enable_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x + 1)(1.0))
"""


def test_a_program_is_kept_for_the_next_start(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    listings = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
        kept = (tmp_path / "effdet_jax" / "programs").rglob("*-cache")
        listings.append(sorted(path.name for path in kept))
    assert listings[0] == listings[1] and any("lambda" in name for name in listings[0])


def test_a_folder_that_jax_was_given_stays(no_folder_yet, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_home_that_cannot_be_written_is_no_error(no_folder_yet, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_other_instructions_have_another_folder(no_folder_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation.platform, "machine", lambda: "another")
    compilation.enable_compilation_cache()
    another = jax.config.jax_compilation_cache_dir
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.enable_compilation_cache()
    assert another != jax.config.jax_compilation_cache_dir


def test_peak_memory_counts_arguments_results_and_temporaries():
    def function(x):
        return jnp.dot(x, x).sum() + x

    x = jnp.ones((256, 256))
    compiled = jax.jit(function).lower(x).compile()
    assert (
        compilation.peak_memory(compiled) >= 2 * x.nbytes
    )  # An argument and a result of its size.


LEFT_BEHIND = """
from effdet_jax.compilation import release_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = [bytearray(50_000) for _ in range(4000)]
pin = bytearray(50_000)  # Above them: what is free below isn't at the end of the heap.
del blocks
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_goes_back_to_the_system():
    assert int(subprocess.check_output([sys.executable, "-c", LEFT_BEHIND])) > 1.5e8
