import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.training.optimizer import (
    clip_by_norms,
    create_optimizer,
    ema_decay,
    learning_rate_schedule,
)
from tests.conftest import shared


def masks(params):
    """Weight decay on kernels; every fusion weight apart."""
    return {
        "decayed": jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params),
        "separate": jax.tree.map_with_path(lambda path, _: path[-1].key == "weights", params),
    }


def create(params, **options):
    return create_optimizer(**masks(params), **options)


@functools.cache
def official():
    return json.loads(shared("goldens/automl_misc/misc.json").read_text())


@pytest.mark.parametrize("method", ["cosine", "stepwise", "polynomial", "constant"])
@pytest.mark.parametrize(
    "run", ["d0_b128_ex120000", "d0_b64_ex118287", "voc_b64_ex5717_ep50", "short_b4_ex20_ep10"]
)
def test_learning_rates_equal_the_official_tables(run, method):
    recorded = official()["lr"][f"{run}/{method}"]
    config, derived = recorded["config"], recorded["derived"]
    scale = config["batch_size"] / 64
    schedule = learning_rate_schedule(
        method,
        peak=config["learning_rate"] * scale,
        warmup_init=config["lr_warmup_init"] * scale,
        warmup_steps=derived.get("lr_warmup_step", 0),
        total_steps=derived.get("total_steps", 1),
        drop_steps=(derived.get("first_lr_drop_step", 0), derived.get("second_lr_drop_step", 0)),
    )
    found = [float(schedule(jnp.int32(step))) for step in recorded["steps"]]
    np.testing.assert_allclose(found, recorded["legacy"], rtol=3e-6, atol=2e-8)


def test_cosine_by_hand():
    schedule = learning_rate_schedule(
        "cosine", peak=1.0, warmup_init=0.1, warmup_steps=10, total_steps=110
    )
    np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(schedule(5), 0.55, rtol=1e-6)
    np.testing.assert_allclose(schedule(50), 0.5, atol=1e-6)  # half of 110 - 10
    np.testing.assert_allclose(schedule(100), 0.0, atol=1e-7)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'linear' is unknown; there are cosine, stepwise"):
        learning_rate_schedule("linear", peak=1.0, warmup_init=0.0, warmup_steps=1, total_steps=2)
    with pytest.raises(ValueError, match="'adam' is unknown; there are sgd, adamw"):
        create(PARAMS, name="adam")


def test_ema_decays_equal_the_official_ones():
    for step, recorded in official()["ema_legacy"].items():
        found = float(ema_decay(jnp.int32(int(step)), 0.9998))
        np.testing.assert_allclose(found, recorded["implied_decay"], atol=2e-7)


PARAMS = {
    "conv": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([1.0])},
    "fusion": {"weights": jnp.array([2.0])},
}


def test_weight_decay_touches_what_is_declared():
    optimizer = create(PARAMS, weight_decay=0.1, clip_norm=0.0, momentum=0.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], [0.3, 0.4])
    assert updates["conv"]["bias"] == 0 and updates["fusion"]["weights"] == 0


def test_each_gradient_is_clipped_on_its_own_then_all_together():
    grads = {"a": {"kernel": jnp.array([30.0, 40.0])}, "b": {"kernel": jnp.array([0.0, 5.0])}}
    total = np.sqrt(10.0**2 + 5.0**2)  # After each is cut to 10; then both are, together.
    clip = clip_by_norms(10.0, masks(grads)["separate"])
    clipped, _ = clip.update(grads, clip.init(grads))
    np.testing.assert_allclose(clipped["a"]["kernel"], np.array([6, 8]) * 10 / total, rtol=1e-6)
    np.testing.assert_allclose(clipped["b"]["kernel"], np.array([0, 5]) * 10 / total, rtol=1e-6)
    # Fusion weights are a scalar each: 10 and -5, then both scaled.
    weights = {"fusion": {"weights": jnp.array([30.0, -5.0])}}
    clip = clip_by_norms(10.0, masks(weights)["separate"])
    weights, _ = clip.update(weights, clip.init(weights))
    expected = np.array([10, -5]) * 10 / total
    np.testing.assert_allclose(weights["fusion"]["weights"], expected, rtol=1e-6)
    # Fusion weights per channel are a vector per input: norms 50 and 5.
    weights = {"fusion": {"weights": jnp.array([[30.0, 40.0], [0.0, 5.0]])}}
    weights, _ = clip.update(weights, clip.init(weights))
    expected = np.array([[6, 8], [0, 5]]) * 10 / total
    np.testing.assert_allclose(weights["fusion"]["weights"], expected, rtol=1e-6)
    small = {"kernel": jnp.array([0.3, -0.4])}
    clip = clip_by_norms(10.0, masks(small)["separate"])
    np.testing.assert_array_equal(
        clip.update(small, clip.init(small))[0]["kernel"], small["kernel"]
    )
    optimizer = create(grads, weight_decay=0.0, momentum=0.0)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(updates["a"]["kernel"], clipped["a"]["kernel"], rtol=1e-6)


def test_momentum_adds_up_without_nesterov():
    params = {"kernel": jnp.array([1.0])}
    optimizer = create(params, weight_decay=0.0, clip_norm=0.0, momentum=0.9)
    state = optimizer.init(params)
    for expected in (1.0, 1.9, 2.71):
        updates, state = optimizer.update({"kernel": jnp.array([1.0])}, state, params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    params = {"kernel": jnp.array([2.0])}
    optimizer = create(params, name="adamw", weight_decay=0.1, clip_norm=0.0)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float32 to an int32 power.
        state = optimizer.init(params)
        updates, _ = optimizer.update({"kernel": jnp.array([5.0])}, state, params)
    # Adam's first step is the sign of the gradient.
    np.testing.assert_allclose(updates["kernel"], 1.0 + 0.1 * 2.0, rtol=1e-4)


def test_exponential_steps_down_once_in_so_many_steps():
    schedule = learning_rate_schedule(
        "exponential",
        peak=1.0,
        warmup_init=0.0,
        warmup_steps=4,
        total_steps=100,
        decay_steps=2.5,
        decay_rate=0.5,
    )
    found = [float(schedule(step)) for step in (0, 2, 4, 5, 7, 8)]
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5, 0.25, 0.25, 0.125], rtol=1e-6)


def test_rmsprop_is_tensorflow_1s_by_hand():
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([1.0])}
    optimizer = create(params, name="rmsprop", weight_decay=0.5, clip_norm=0.0)
    state, grads = optimizer.init(params), {"kernel": jnp.array([3.0]), "bias": jnp.array([3.0])}
    squares, momentum = {"kernel": 1.0, "bias": 1.0}, {"kernel": 0.0, "bias": 0.0}
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        for name, gradient in (("kernel", 3.0 + 0.5 * 2.0), ("bias", 3.0)):
            squares[name] = 0.9 * squares[name] + 0.1 * gradient**2
            step = gradient / (squares[name] + 1e-3) ** 0.5
            momentum[name] = 0.9 * momentum[name] + step
            np.testing.assert_allclose(updates[name], [momentum[name]], rtol=1e-5)
