import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.checkpoint import abstract_arrays
from effdet_jax.model.detector import Detector
from effdet_jax.training.optimizer import make_optimizer
from effdet_jax.training.sharding import make_mesh, place_batch, replicated
from effdet_jax.training.state import create_state, state_of
from effdet_jax.training.step import make_train_step
from effdet_jax.variants import model_spec
from tests.conftest import QUICK, enable_x64, random_variables

# The smallest of the family, without drop-connect: its random numbers are another test's matter.
SPEC = model_spec(
    "efficientdet-lite0",
    image_size=(64, 64),
    num_classes=3,
    pyramid_cells=1,
    head_depth=1,
    fusion="fast",
    survival_probability=1.0,
)
MODEL = Detector(SPEC)
OPTIMIZER = make_optimizer()


@functools.cache
def variables():
    return jax.device_get(random_variables(MODEL))


def in_float64():
    return jax.tree.map(lambda leaf: leaf.astype(np.float64), variables())


def make_batch(seed=0, rows=8):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (rows, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 24, (rows, 4, 2))], -1)
    labels = rng.integers(-1, 3, (rows, 4))
    return {
        "image": rng.integers(0, 256, (rows, 64, 64, 3)).astype(np.uint8),
        "content": np.tile(np.int32([[64, 48]]), (rows, 1)),
        "boxes": boxes.astype(np.float32),
        "labels": labels.astype(np.int32),
        "valid": np.ones(rows, bool),
        "index": np.arange(rows),
        "dropped": np.zeros(rows, np.int32),
    }


@functools.cache
def step_on(devices: int):
    """(mesh, compiled step) on so many of the fake devices."""
    mesh = make_mesh(8, jax.devices()[:devices])
    model = Detector(SPEC, dtype=jnp.float64)
    step = make_train_step(model, OPTIMIZER, lambda step: 0.01, mesh, ema=0.9)
    state = jax.eval_shape(lambda tree: state_of(tree, OPTIMIZER), in_float64())
    lowered = step.lower(abstract_arrays(state, replicated(mesh)), place_batch(make_batch(), mesh))
    return mesh, lowered.compile(compiler_options=QUICK)


def run(devices: int, batches):
    """State and metrics after a step on each batch, starting from the same variables.

    In float64, so that what differs would be another computation and not the order of a sum, which
    two steps of batch normalisation over 8 values (P6, P7) blow up in float32.
    """
    with enable_x64(True):
        mesh, step = step_on(devices)
        state = jax.device_put(state_of(in_float64(), OPTIMIZER), replicated(mesh))
        history = []
        for batch in batches:
            state, metrics = step(state, place_batch(batch, mesh))
            history.append(jax.device_get(metrics))
        return jax.device_get(state), history


def test_eight_devices_give_the_numbers_of_one():
    batches = [make_batch(0), make_batch(1)]
    one, history_of_one = run(1, batches)
    eight, history_of_eight = run(8, batches)
    for a, b in zip(history_of_one, history_of_eight):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, err_msg=name)

    def check(path, a, b):
        largest = np.abs(a).max() + 1e-6
        np.testing.assert_allclose(a, b, atol=1e-6 * largest, err_msg=jax.tree_util.keystr(path))

    trees = [
        (state.params, state.batch_stats, state.opt_state, state.ema) for state in (one, eight)
    ]
    jax.tree.map_with_path(check, *trees)


def test_a_step_learns_and_averages():
    before = variables()
    after, (metrics,) = run(1, [make_batch()])
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
    after, (metrics,) = run(1, [batch])
    assert not metrics["finite"] and after.step == 1
    fresh = jax.device_get(state_of(variables(), OPTIMIZER))
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=fresh.step), fresh)


def test_invalid_images_do_not_train():
    sound, with_broken = make_batch(), make_batch()
    with_broken["boxes"][3] = 0.0
    for batch in (sound, with_broken):
        batch["valid"][3] = False
    _, (a,) = run(1, [sound])
    _, (b,) = run(1, [with_broken])
    assert a["loss/total"] == b["loss/total"] and a["data/num_positives"] == b["data/num_positives"]


def test_a_batch_without_objects_is_finite():
    batch = make_batch()
    batch["labels"][:] = -1
    _, (metrics,) = run(1, [batch])
    assert metrics["finite"] and metrics["loss/box"] == 0 and metrics["data/num_positives"] == 0


def test_batches_that_do_not_divide_are_refused_with_sizes_that_do():
    with pytest.raises(
        ValueError, match=r"batch_size 12 doesn't divide by the 8 devices; use 8 or 16"
    ):
        make_mesh(12, jax.devices())
    with pytest.raises(ValueError, match="use 8"):
        make_mesh(3, jax.devices())


def test_create_state_places_everything_on_every_device():
    mesh = make_mesh(8, jax.devices())
    shapes = jax.eval_shape(lambda: create_state(MODEL, OPTIMIZER, 0, mesh))
    assert jax.tree.structure(shapes.ema) == jax.tree.structure(
        {"params": shapes.params, "batch_stats": shapes.batch_stats}
    )
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((shapes.params, shapes.batch_stats))
    )
