import jax
import jax.numpy as jnp
import numpy as np

from effdet_jax.model.detector import Detector
from effdet_jax.training.statistics import statistics_momentum, warm_up
from tests.tiny import tiny_spec


def test_momentum_is_read_off_the_layers():
    momentum = statistics_momentum(Detector(tiny_spec()))
    assert set(jax.tree.leaves(momentum)) == {0.99}
    assert momentum["backbone"]["stem_bn"]["var"] == 0.99


def test_the_first_steps_take_most_of_the_batch():
    old, momentum = {"var": np.float64(1.0)}, {"var": 0.99}
    moved = {"var": np.float64(0.99 * 1.0 + 0.01 * 5.0)}  # The layer's own update by a batch of 5.
    running, batch = warm_up(old, moved, momentum, jnp.int32(1))
    np.testing.assert_allclose(batch["var"], 5.0)
    np.testing.assert_allclose(running["var"], 2 / 11 * 1.0 + 9 / 11 * 5.0, rtol=1e-6)
    running, _ = warm_up(
        old, moved, momentum, jnp.int32(891)
    )  # (1 + 891) / (10 + 891) is above 0.99.
    np.testing.assert_allclose(running["var"], 1.04, rtol=1e-6)


def test_statistics_that_do_not_move_stay_to_the_bit():
    old = {"mean": np.float32([0.1, -3.7e-5, 1e4])}
    running, batch = warm_up(old, old, {"mean": 0.99}, jnp.int32(3))
    np.testing.assert_array_equal(running["mean"], old["mean"])
    np.testing.assert_array_equal(batch["mean"], old["mean"])
