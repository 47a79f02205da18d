import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from effdet_jax.kernels.transpose import transposed_conv
from tests.ops.test_convolution import assert_same_gradients


def test_it_is_flaxs_transposed_convolution_in_value_and_gradient(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 5, 4)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 6)).astype(np.float32))
    flax = nn.ConvTranspose(6, (3, 3), strides=(2, 2), use_bias=False)

    def theirs(x, kernel):
        return flax.apply({"params": {"kernel": kernel}}, x)

    assert transposed_conv(x, kernel).shape == (2, 6, 10, 6)
    np.testing.assert_allclose(transposed_conv(x, kernel), theirs(x, kernel), atol=1e-4)
    assert_same_gradients(transposed_conv, theirs, x, kernel)


def test_one_pixel_spreads_over_the_kernel_by_hand():
    """Output 2i + t of one axis is kernel[2 - t] times input i, and kernel[0] of the one before."""
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    x = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
    expected = [[8, 7, 6, 0], [5, 4, 3, 0], [2, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(transposed_conv(x, kernel)[0, ..., 0], expected)
