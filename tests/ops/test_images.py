import jax.numpy as jnp
import numpy as np

from effdet_jax.ops.images import mirror, normalize


def test_normalizes_and_zeroes_the_padding():
    images = jnp.full((1, 2, 3, 3), 200, jnp.uint8)
    content = jnp.array([[1, 2]], jnp.int32)
    found = normalize(images, content, mean=(100.0, 100.0, 0.0), std=(50.0, 100.0, 200.0))
    expected = np.zeros((2, 3, 3))
    expected[0, :2] = [2.0, 1.0, 1.0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    black = normalize(images * 0, content, (127.5,) * 3, (127.5,) * 3, black_padding=True)
    np.testing.assert_array_equal(black, -jnp.ones((1, 2, 3, 3)))
    assert normalize(images, content, (0.0,) * 3, (1.0,) * 3, jnp.bfloat16).dtype == jnp.bfloat16


def test_mirrors_the_content_and_leaves_the_padding_where_it_is():
    row = jnp.array([[1, 2, 3, 0], [4, 5, 6, 7]], jnp.uint8)  # Widths 3 and 4.
    images = jnp.tile(row[:, None, :, None], (1, 2, 1, 3))
    found = mirror(images, jnp.array([[2, 3], [2, 4]], jnp.int32))
    expected = np.array([[3, 2, 1, 0], [7, 6, 5, 4]], np.uint8)
    np.testing.assert_array_equal(found, np.tile(expected[:, None, :, None], (1, 2, 1, 3)))
