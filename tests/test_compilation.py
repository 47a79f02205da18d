import gc
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax import compilation
from tests.conftest import jax_settings


@pytest.fixture
def no_folder_yet():
    with jax_settings(jax_compilation_cache_dir=None):
        yield


PROGRAM = """
import jax
from effdet_jax.compilation import keep_programs
keep_programs()
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
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_a_home_that_cannot_be_written_is_no_error(no_folder_yet, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_compiling_leaves_no_garbage_collector_off():
    seen = []

    def function(x):
        seen.append(gc.isenabled())
        return x + 1

    assert compilation.compile_for(jax.jit(function), 1.0)(1.0) == 2
    with pytest.raises(TypeError):
        compilation.compile_for(jax.jit(function), None)
    assert seen[0] is False and gc.isenabled()


def test_other_instructions_have_another_folder(no_folder_yet, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation.platform, "machine", lambda: "another")
    compilation.keep_programs()
    another = jax.config.jax_compilation_cache_dir
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.keep_programs()
    assert another != jax.config.jax_compilation_cache_dir


def test_two_programs_are_compiled_and_called_as_one():
    def first(state, batch):
        return state["a"] * batch, batch.sum()

    def second(state, product, total):
        return {"a": state["a"] + product}, total

    both = compilation.TwoPrograms(jax.jit(first), jax.jit(second, donate_argnums=0))
    compiled = compilation.compile_for(both, {"a": jnp.ones(3)}, jnp.arange(3.0))
    assert compilation.peak_memory(compiled) == max(map(compilation.peak_memory, compiled)) > 0
    for function in (both, compiled):
        state = {"a": jnp.array([1.0, 2.0, 3.0])}
        new_state, total = function(state, jnp.arange(3.0))
        np.testing.assert_array_equal(new_state["a"], [1.0, 4.0, 9.0])
        assert total == 3 and state["a"].is_deleted()
