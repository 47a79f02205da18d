import jax
import numpy as np
import pytest

from effdet_jax.layers import initializers


# Standard deviations by arithmetic, as TensorFlow counts fans (a depthwise kernel's last dimension
# is 1 there, and its fan_in is 9·C).
@pytest.mark.parametrize(
    ("init", "shape", "expected"),
    [
        (initializers.conv_kernel_init, (1, 1, 64, 200), np.sqrt(2 / 200)),
        (initializers.conv_kernel_init, (3, 3, 3, 600), np.sqrt(2 / (9 * 600))),
        (initializers.conv_kernel_init, (5, 5, 1, 800), np.sqrt(2 / 25)),
        (initializers.glorot_uniform, (1, 1, 100, 300), np.sqrt(2 / 400)),
        (initializers.glorot_uniform, (3, 3, 1, 900), np.sqrt(2 / (9 * 900 + 9))),
        (initializers.truncated_lecun_normal, (1, 1, 90, 400), np.sqrt(1 / 90)),
        (initializers.truncated_lecun_normal, (3, 3, 1, 900), np.sqrt(1 / (9 * 900))),
    ],
)
def test_initialisers_have_the_reference_deviation(init, shape, expected):
    by_numpy = init.draw(np.random.default_rng(0), shape)
    assert by_numpy.dtype == np.float32
    for values in (np.asarray(init(jax.random.key(0), shape)), by_numpy):
        np.testing.assert_allclose(values.std(), expected, rtol=0.03)
        np.testing.assert_allclose(values.mean(), 0, atol=4 * expected / np.sqrt(values.size))
        if init is initializers.glorot_uniform:  # Uniform: bounded by √3 deviations.
            assert 1.7 * expected < np.abs(values).max() <= np.sqrt(3) * expected * 1.0001
        if (
            init is initializers.truncated_lecun_normal
        ):  # Cut at two deviations of the uncut normal.
            assert 2.2 * expected < np.abs(values).max() <= 2 * expected / 0.8796256 * 1.0001
