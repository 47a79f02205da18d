import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from effdet_jax.ops.resample import max_pool, resample, upsample, window_padding


def ramp(height, width):
    return jnp.arange(height * width, dtype=jnp.float32).reshape(1, height, width, 1)


def test_upsample_takes_floor_of_the_ratio():
    # 3 → 5: floor(i · 3 / 5) = 0, 0, 1, 1, 2; half-pixel centres would give 0, 0, 1, 2, 2.
    rows = upsample(ramp(3, 1), (5, 1))[0, :, 0, 0]
    np.testing.assert_array_equal(rows, [0, 0, 1, 1, 2])
    rows = upsample(ramp(4, 1), (7, 1))[0, :, 0, 0]
    np.testing.assert_array_equal(rows, [0, 0, 1, 1, 2, 2, 3])


def test_upsample_by_two_repeats():
    doubled = upsample(ramp(2, 2), (4, 4))[0, :, :, 0]
    np.testing.assert_array_equal(doubled, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])


@pytest.mark.parametrize(
    ("full", "expected"),
    [(8, (0, 1)), (7, (1, 1)), (1, (1, 1))],  # even: the odd pixel after; odd: both sides
)
def test_same_padding_of_a_3_window_and_stride_2(full, expected):
    assert window_padding((full,), [3], [2]) == (expected,)


@pytest.mark.parametrize(("full", "expected"), [(8, (1, 0)), (7, (1, 1)), (1, (1, 1))])
def test_symmetric_padding_leaves_what_no_window_reaches(full, expected):
    # PyTorch pads a 3 window of stride 2 by 1 on both sides; over 8 pixels the last isn't reached.
    assert window_padding((full,), [3], [2], "symmetric") == (expected,)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6), (2, 2)])
def test_max_pool_equals_flax_on_negative_values(rng, size):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)).astype(np.float32)) - 10.0
    target = tuple((side + 1) // 2 for side in size)
    expected = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    assert expected.shape[1:3] == target
    np.testing.assert_array_equal(max_pool(x, target), expected)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6), (2, 2)])
def test_symmetric_max_pool_equals_flax_padded_by_one(rng, size):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)).astype(np.float32)) - 10.0
    expected = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(max_pool(x, expected.shape[1:3], "symmetric"), expected)


@pytest.mark.parametrize("overlap", [0, 1])
def test_max_pool_over_many_levels_equals_flax(rng, overlap):
    x = jnp.asarray(rng.normal(size=(2, 17, 33, 3)).astype(np.float32)) - 10.0
    target, strides = (3, 5), (6, 7)  # (17 - 1) // 3 + 1 and (33 - 1) // 5 + 1.
    windows = tuple(stride + overlap for stride in strides)
    expected = nn.max_pool(x, windows, strides, padding="SAME")
    assert expected.shape[1:3] == target
    np.testing.assert_array_equal(max_pool(x, target, overlap=overlap), expected)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_windows_that_do_not_overlap_tile_the_image(padding):
    # Rows 0–1 and 2–3: the last of each is the largest. 5 rows: the last is alone.
    for rows, expected in ((4, [1, 3]), (5, [1, 3, 4])):
        found = max_pool(ramp(rows, rows), (len(expected),) * 2, padding, overlap=0)
        np.testing.assert_array_equal(found[0, :, 0, 0] // rows, expected)


def test_max_pool_gradient_goes_to_the_maximum(rng):
    x = jnp.asarray(rng.permutation(49).reshape(1, 7, 7, 1).astype(np.float32))
    ours = jax.grad(lambda x: jnp.sum(max_pool(x, (4, 4)) ** 2))(x)
    flax = jax.grad(lambda x: jnp.sum(nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME") ** 2))(
        x
    )
    np.testing.assert_array_equal(ours, flax)


def test_resample_refuses_to_shrink_one_side_and_grow_the_other():
    with pytest.raises(ValueError, match="one side would shrink and the other grow"):
        resample(ramp(4, 4), (2, 8))


def test_resample_to_the_same_size_is_the_identity():
    x = ramp(3, 5)
    assert resample(x, (3, 5)) is x
