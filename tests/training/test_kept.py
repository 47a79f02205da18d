import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from effdet_jax.compilation import TwoPrograms
from effdet_jax.training import kept
from effdet_jax.training.kept import KeptStep
from effdet_jax.training.optimizer import make_optimizer
from effdet_jax.training.sharding import make_mesh, replicate
from effdet_jax.training.state import TrainState, state_of
from tests.conftest import jax_settings

OPTIMIZER = make_optimizer()
BATCH = {"image": jnp.arange(8.0).reshape(8, 1)}


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """jax's cache, as `keep_programs` turns it on; everything is worth keeping."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with jax_settings(**settings):
        compilation_cache.reset_cache()
        yield tmp_path
    compilation_cache.reset_cache()


def mesh_of(devices: int):
    return make_mesh(8, devices=jax.devices()[:devices])


def new_state(mesh, width=3) -> TrainState:
    variables = {
        "params": {"conv": {"kernel": jnp.ones((width, 1)), "bias": jnp.zeros(1)}},
        "batch_stats": {"mean": jnp.zeros(1)},
    }
    return replicate(state_of(variables, OPTIMIZER), mesh)


def gradients(state, batch):
    def loss(params):
        wide = jnp.tile(batch["image"], (1, params["conv"]["kernel"].shape[0]))
        return jnp.mean((wide @ params["conv"]["kernel"] + params["conv"]["bias"] - 1) ** 2)

    return jax.value_and_grad(loss)(state.params)


def update(state, loss, grads):
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda leaf: -0.01 * leaf, updates))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), {"loss": loss}


def two_programs():
    return TwoPrograms(jax.jit(gradients, keep_unused=True), jax.jit(update, donate_argnums=0))


def one_program():
    return jax.jit(lambda state, batch: update(state, *gradients(state, batch)), donate_argnums=0)


def compile_and_read(mesh, step, key=None) -> tuple:
    """What was compiled, and what the next start reads of it."""
    key = key or {"seed": 0}
    first = KeptStep(key, mesh)
    compiled = first.compile(step, new_state(mesh), BATCH)
    first.keep(compiled)
    again = KeptStep(key, mesh)
    again.read()
    return compiled, again.get(new_state(mesh), BATCH)


@pytest.mark.parametrize(
    ("devices", "make"), [(1, two_programs), (1, one_program), (8, one_program)]
)
def test_the_next_start_has_the_same_step(devices, make, capsys):
    mesh = mesh_of(devices)
    compiled, read = compile_and_read(mesh, make())
    assert read is not None and type(read) is type(compiled) and capsys.readouterr().out == ""
    results = []
    for step in (compiled, read):
        state = new_state(mesh)
        old = state.params["conv"]["kernel"]
        for _ in range(3):
            state, metrics = step(state, BATCH)
        assert old.is_deleted()
        results.append(jax.device_get((state, metrics)))
    assert results[0][0].step == 3 and results[0][1]["loss"] > 0
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_jax_keeps_no_second_copy_and_goes_on_keeping_other_programs(folder):
    compile_and_read(mesh_of(1), one_program())
    assert not [path for path in folder.glob("*-cache") if "lambda" in path.name]
    jax.jit(lambda x: x + 3)(1.0)
    assert [path for path in folder.glob("*-cache") if "lambda" in path.name]


def test_a_step_out_of_jax_s_own_cache_is_compiled_anew_to_be_kept():
    mesh = mesh_of(1)
    one_program().lower(new_state(mesh), BATCH).compile()
    _, read = compile_and_read(mesh, one_program())
    assert read(new_state(mesh), BATCH)[1]["loss"] > 0


def test_another_key_mesh_or_code_is_another_step(monkeypatch):
    path = KeptStep({"seed": 0}, mesh_of(1)).path
    assert path == KeptStep({"seed": 0}, mesh_of(1)).path
    others = [KeptStep({"seed": 1}, mesh_of(1)).path, KeptStep({"seed": 0}, mesh_of(8)).path]
    with jax_settings(jax_default_matmul_precision="highest"):
        others.append(KeptStep({"seed": 0}, mesh_of(1)).path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    others.append(KeptStep({"seed": 0}, mesh_of(1)).path)
    monkeypatch.undo()
    monkeypatch.setattr(kept, "processors", lambda: 1000)
    others.append(KeptStep({"seed": 0}, mesh_of(1)).path)
    monkeypatch.undo()
    monkeypatch.setattr(kept, "source_hash", lambda: "another")
    others.append(KeptStep({"seed": 0}, mesh_of(1)).path)
    assert len({path, *others}) == 7
    nothing = KeptStep({"seed": 2}, mesh_of(1))
    nothing.read()
    assert nothing.get(new_state(mesh_of(1)), BATCH) is None


def test_a_step_for_other_arguments_is_not_used(capsys):
    mesh = mesh_of(1)
    compile_and_read(mesh, two_programs())
    again = KeptStep({"seed": 0}, mesh)
    again.read()
    assert again.get(new_state(mesh, width=4), BATCH) is None
    assert "it takes float32[3, 1] for [0][0].params['conv']['kernel'], not float32[4, 1]" in (
        capsys.readouterr().out
    )
    assert again.get(new_state(mesh), {**BATCH, "boxes": jnp.zeros(1)}) is None
    assert "it takes another state or batch" in capsys.readouterr().out


def test_a_damaged_file_is_named_and_replaced(capsys):
    mesh = mesh_of(1)
    compile_and_read(mesh, two_programs())
    path = KeptStep({"seed": 0}, mesh).path
    content = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(content[: len(content) // 2])
    damaged = KeptStep({"seed": 0}, mesh)
    damaged.read()
    assert damaged.get(new_state(mesh), BATCH) is None
    assert path in capsys.readouterr().out
    assert compile_and_read(mesh, two_programs())[1] is not None


def test_what_cannot_be_written_does_not_stop_a_run(folder, capsys):
    (folder / "steps").write_text("")
    kept_step = KeptStep({"seed": 0}, mesh_of(1))
    compiled = kept_step.compile(two_programs(), new_state(mesh_of(1)), BATCH)
    kept_step.keep(compiled)
    assert compiled(new_state(mesh_of(1)), BATCH)[1]["loss"] > 0
    assert "warning: the compiled step isn't kept" in capsys.readouterr().out


def test_nothing_is_kept_where_jax_keeps_nothing_or_elsewhere(monkeypatch):
    for name, value in (
        ("jax_enable_compilation_cache", False),
        ("jax_compilation_cache_dir", "gs://bucket/programs"),
        ("jax_compilation_cache_dir", None),
    ):
        with jax_settings(**{name: value}):
            assert KeptStep({}, mesh_of(1)).path == ""
    assert KeptStep({}, mesh_of(1)).path
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    without = KeptStep({}, mesh_of(1))
    without.read()
    assert without.path == "" and without.get() is None
    compiled = without.compile(jax.jit(lambda x: x + 1), 1.0)
    without.keep(compiled)
    assert compiled(1.0) == 2


def test_the_longest_unused_go_first(folder, monkeypatch):
    monkeypatch.setattr(kept, "KEPT_STEPS", 2)
    mesh = mesh_of(1)
    for seed in range(2):
        compile_and_read(mesh, two_programs(), {"seed": seed})
    first, second = (KeptStep({"seed": seed}, mesh).path for seed in range(2))
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    used = KeptStep({"seed": 0}, mesh)
    used.read()
    assert used.get(new_state(mesh), BATCH) is not None
    compile_and_read(mesh, two_programs(), {"seed": 2})
    left = set(os.listdir(folder / "steps"))
    assert left == {os.path.basename(first), os.path.basename(KeptStep({"seed": 2}, mesh).path)}
