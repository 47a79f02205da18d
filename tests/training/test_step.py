import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.objective import create_objective
from effdet_jax.distributed.mesh import create_mesh, place_batch, state_sharding
from effdet_jax.distributed.rows import splits_rows
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.spec import model_spec
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.state import state_of
from effdet_jax.training.step import create_train_step
from tests.conftest import enable_x64
from tests.quick import QUICK
from tests.tiny import random_variables, tiny_spec

# One block per stage and three levels compile sooner than the smallest of the family; without
# drop-connect, whose random numbers are another test's matter.
SPEC = tiny_spec("efficientdet-d0", num_classes=3, max_level=5, survival_probability=1.0)
LITE = model_spec(
    "efficientdet-lite0",
    image_size=(64, 64),
    num_classes=3,
    pyramid_cells=1,
    head_depth=1,
    survival_probability=1.0,
)
D0 = model_spec("efficientdet-d0", image_size=(128, 128), num_classes=3, survival_probability=1.0)
NARROW_D7X = model_spec(
    "efficientdet-d7x",
    image_size=(256, 256),
    num_classes=3,
    backbone="efficientnet-b0",
    pyramid_width=64,
    pyramid_cells=1,
    head_depth=1,
    survival_probability=1.0,
)
ONE = (1, 1, 1)  # data × fsdp × spatial
ALL_AXES = (2, 2, 2)


@functools.cache
def optimizer_for(spec):
    return create_optimizer(**parameter_masks(Detector(spec)))


@functools.cache
def variables(spec=SPEC):
    return jax.device_get(random_variables(Detector(spec)))


def in_float64(spec=SPEC):
    return jax.tree.map(lambda leaf: leaf.astype(np.float64), variables(spec))


def make_batch(seed=0, rows=8, spec=SPEC):
    height, width = spec.image_size
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (rows, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 24, (rows, 4, 2))], -1)
    labels = rng.integers(-1, 3, (rows, 4))
    return {
        "image": rng.integers(0, 256, (rows, height, width, 3)).astype(np.uint8),
        "content": np.tile(np.int32([[64, 48]]), (rows, 1)),
        "boxes": boxes.astype(np.float32),
        "labels": labels.astype(np.int32),
        "ignored": rng.random((rows, height // 8, width // 8)) < 0.1,
        "valid": np.ones(rows, bool),
        "index": np.arange(rows),
        "dropped": np.zeros(rows, np.int32),
    }


@functools.cache
def step_on(shape, spec=SPEC, **options):
    """(mesh, where a state lives, compiled step) on a mesh of fake devices."""
    data, fsdp, spatial = shape
    devices = jax.devices()[: data * fsdp * spatial]
    mesh = create_mesh(8, fsdp=fsdp, spatial=spatial, devices=devices)
    model = Detector(spec, dtype=jnp.float64, remat=options.pop("remat", "none"))
    objective, optimizer = create_objective(spec), optimizer_for(spec)
    step = create_train_step(
        model, objective, optimizer, lambda step: 0.01, mesh, ema=0.9, **options
    )
    state = jax.eval_shape(lambda tree: state_of(tree, optimizer), in_float64(spec))
    shardings = state_sharding(state, mesh)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )
    lowered = step.lower(state, place_batch(make_batch(spec=spec), mesh))
    return mesh, shardings, lowered.compile(compiler_options=QUICK)


def run(shape, batches, spec=SPEC, **options):
    """State and metrics after a step on each batch, starting from the same variables.

    In float64, so that what differs would be another computation and not the order of a sum, which
    two steps of batch normalisation over 8 values (P6, P7) blow up in float32.
    """
    with enable_x64(True):
        mesh, shardings, step = step_on(shape, spec, **options)
        state = jax.device_put(state_of(in_float64(spec), optimizer_for(spec)), shardings)
        history = []
        for batch in batches:
            state, metrics = step(state, place_batch(batch, mesh))
            history.append(jax.device_get(metrics))
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
        return jax.device_get(state), history


def assert_same(state, expected, tolerance=1e-6):
    """Every array to within a fraction of its largest value. The trace holds the gradients."""

    def check(path, a, b):
        largest = np.abs(b).max() + 1e-6
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest, err_msg=where)

    parts = [(s.params, s.batch_stats, s.opt_state, s.ema) for s in (state, expected)]
    jax.tree.map_with_path(check, *parts)


def assert_trains_the_same(shape, spec):
    """Two steps, and every gradient of the first (its momentum), on a mesh as on one device."""
    batches = [make_batch(0, spec=spec), make_batch(1, spec=spec)]
    for steps in (1, 2):
        state, history = run(shape, batches[:steps], spec)
        expected, expected_history = run(ONE, batches[:steps], spec)
        assert_same(state, expected)
    for metrics, expected in zip(history, expected_history):
        for name in expected:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-6, err_msg=name)


def gathered_shapes(program: str) -> set[tuple[int, ...]]:
    """Shapes of the results of all all-gathers of a compiled program."""
    lines = [line for line in program.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    results = "".join(line.split(" all-gather")[0] for line in lines)
    return {tuple(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", results)}


def assert_split_rows_are_not_gathered(shape, spec):
    """Levels with rows enough for all stay split from the image to the loss."""
    with enable_x64(True):
        program = step_on(shape, spec)[2].as_text()
    assert "collective-permute" in program  # Neighbours exchange rows at their edges.
    activations = gathered_shapes(program) - {
        leaf.shape for leaf in jax.tree.leaves(variables(spec)["params"])
    }
    for gathered in activations:
        assert len(gathered) == 4, f"what is {gathered}?"
        assert not splits_rows(gathered[1], shape[2]), f"rows of {gathered} are gathered"


def assert_nothing_is_conditional(shape, spec):
    """XLA doesn't order collectives of a conditional against the others, and processes mix them up.

    `kernels.platform.by_platform` chooses while tracing where there is a mesh, so that none is left.
    """
    with enable_x64(True):
        program = step_on(shape, spec)[2].as_text()
    assert re.search(r" (all-reduce|all-gather|collective-permute|all-to-all)(-start)?\(", program)
    assert not re.search(r" conditional\(", program)


def assert_nothing_but_parameters_is_gathered(shape, spec):
    """Images, and what becomes of them, stay where they are."""
    with enable_x64(True):
        gathered = gathered_shapes(step_on(shape, spec)[2].as_text())
    assert gathered <= {leaf.shape for leaf in jax.tree.leaves(variables(spec)["params"])}


def test_a_mesh_of_all_axes_gives_the_numbers_of_one_device():
    assert_trains_the_same(ALL_AXES, SPEC)
    assert_split_rows_are_not_gathered(ALL_AXES, SPEC)
    assert_nothing_is_conditional(ALL_AXES, SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [D0, LITE, NARROW_D7X], ids=["d0", "lite", "d7x's levels"])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 1, 4), ALL_AXES], ids=str)
def test_every_mesh_gives_the_numbers_of_one_device(shape, spec):
    assert_trains_the_same(shape, spec)
    if shape[2] > 1:
        assert_split_rows_are_not_gathered(shape, spec)
    else:
        assert_nothing_but_parameters_is_gathered(shape, spec)


def test_microbatches_and_recomputing_change_no_gradient():
    # Each image twice, once for either half: so the halves' statistics are those of the whole.
    batch = {name: np.repeat(array[:4], 2, axis=0) for name, array in make_batch().items()}
    whole, (metrics,) = run(ONE, [batch])
    parts, (metrics_of_parts,) = run(ONE, [batch], microbatches=2, remat="full")
    for name in metrics:
        # The box loss is float32 all the same: its last bit differs (jax 0.7), and with it the total.
        rtol = 1e-6 if metrics[name].dtype == np.float32 else 5e-8
        np.testing.assert_allclose(metrics_of_parts[name], metrics[name], rtol=rtol, err_msg=name)
    for tree in ("params", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
            getattr(parts, tree),
            getattr(whole, tree),
        )
    before, bn, bn_of_parts = (
        tree["backbone"]["stem_bn"]
        for tree in (in_float64()["batch_stats"], whole.batch_stats, parts.batch_stats)
    )
    np.testing.assert_allclose(bn_of_parts["mean"], bn["mean"], rtol=1e-6)
    # The variance that joins the running one is unbiased, n / (n - 1), of n pixels or of half.
    added, added_of_parts = (after["var"] - 0.99 * before["var"] for after in (bn, bn_of_parts))
    pixels = 8 * 32 * 32
    ratio = (pixels / 2 / (pixels / 2 - 1)) / (pixels / (pixels - 1))
    np.testing.assert_allclose(added_of_parts / added, ratio, rtol=1e-6)


def test_a_step_learns_and_averages():
    before = variables()
    after, (metrics,) = run(ONE, [make_batch()])
    assert after.step == 1 and metrics["finite"] and metrics["data/num_positives"] > 0
    np.testing.assert_allclose(
        metrics["loss/total"], metrics["loss/class"] + 50 * metrics["loss/box"], rtol=1e-5
    )
    kernel = ("backbone", "stem_conv", "kernel")
    old, new, average = (
        functools.reduce(dict.__getitem__, kernel, tree)
        for tree in (before["params"], after.params, after.ema["params"])
    )
    assert (new != old).any()
    # Decay of the first update: min(0.9, 2 / 11).
    np.testing.assert_allclose(average, old * 2 / 11 + new * 9 / 11, rtol=1e-4, atol=1e-7)
    stats = after.ema["batch_stats"]["backbone"]["stem_bn"]["mean"]
    assert (stats != before["batch_stats"]["backbone"]["stem_bn"]["mean"]).any()


def test_a_step_that_is_no_number_changes_nothing_but_the_count():
    batch = make_batch()
    batch["boxes"][0, 0] = np.nan
    batch["labels"][0, 0] = 1
    after, (metrics,) = run(ONE, [batch])
    assert not metrics["finite"] and after.step == 1
    fresh = jax.device_get(state_of(variables(), optimizer_for(SPEC)))
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=fresh.step), fresh)


def test_invalid_images_do_not_train():
    sound, with_broken = make_batch(), make_batch()
    with_broken["boxes"][3] = 0.0
    for batch in (sound, with_broken):
        batch["valid"][3] = False
    _, (a,) = run(ONE, [sound])
    _, (b,) = run(ONE, [with_broken])
    assert a["loss/total"] == b["loss/total"] and a["data/num_positives"] == b["data/num_positives"]


def test_a_batch_without_objects_is_finite():
    batch = make_batch()
    batch["labels"][:] = -1
    _, (metrics,) = run(ONE, [batch])
    assert metrics["finite"] and metrics["loss/box"] == 0 and metrics["data/num_positives"] == 0
