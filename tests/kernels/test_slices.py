import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from effdet_jax.kernels.slices import max_pool_slices, shifted_slices


@pytest.mark.parametrize(("windows", "strides"), [([3, 3], [2, 2]), ([2, 3], [1, 2])])
def test_the_maximum_of_slices_is_that_of_reduce_window(rng, windows, strides):
    x = jnp.asarray(rng.normal(size=(2, 9, 11, 4)).astype(np.float32))
    edges = ((0, 1), (1, 1))
    expected = lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *windows, 1), (1, *strides, 1), ((0, 0), *edges, (0, 0))
    )
    found = max_pool_slices(x, expected.shape[1:3], windows, strides, edges)
    np.testing.assert_array_equal(found, expected)


def test_slices_are_views_in_the_order_of_rows_then_columns():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    views = shifted_slices(x, (2, 2), [1, 2], [2, 2])
    assert [view.ravel().tolist() for view in views] == [[0, 2, 8, 10], [1, 3, 9, 11]]
