import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.model.merge import MERGES, normalized_weights

INPUTS = [jnp.array([1.0, 3.0]).reshape(1, 1, 1, 2)] * 2


# google/automl's test fuses [1, 3] with itself; fast: 2 / (2 + 1e-4).
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sum", [2.0, 6.0]),
        ("softmax", [1.0, 3.0]),
        ("fast", [0.99995, 2.99985]),
        ("unbounded", [2.0, 6.0]),
        ("channel_fast", [0.99995, 2.99985]),
        ("channel_softmax", [1.0, 3.0]),
    ],
)
def test_fusion_with_fresh_weights(method, expected):
    module = MERGES[method]()
    variables = module.init(jax.random.key(0), INPUTS)
    assert ("params" in variables) == (method != "sum")
    np.testing.assert_allclose(module.apply(variables, INPUTS).reshape(-1), expected, rtol=1e-6)


def test_weights_are_an_explicit_parameter():
    for method, shape in (("fast", (3,)), ("channel_fast", (3, 2)), ("channel_softmax", (3, 2))):
        params = MERGES[method]().init(jax.random.key(0), [*INPUTS, INPUTS[0]])["params"]
        assert jax.tree.map(jnp.shape, params) == {"weights": shape}


def test_fast_fusion_ignores_negative_weights():
    found = normalized_weights(jnp.array([2.0, -5.0, 1.0]), "fast")
    np.testing.assert_allclose(found, np.array([2.0, 0.0, 1.0]) / 3.0001, rtol=1e-6)


def test_softmax_weights_by_hand():
    found = normalized_weights(jnp.array([0.0, np.log(3.0)]), "softmax")
    np.testing.assert_allclose(found, [0.25, 0.75], rtol=1e-6)


def test_unknown_method():
    with pytest.raises(ValueError, match="'attn' is unknown"):
        normalized_weights(jnp.ones(2), "attn")


def test_each_channel_has_its_own_weights():
    inputs = [jnp.array([1.0, 3.0]).reshape(1, 1, 1, 2), jnp.array([5.0, 7.0]).reshape(1, 1, 1, 2)]
    params = {"weights": jnp.array([[3.0, -1.0], [1.0, 2.0]])}
    # Channel 0: (3·1 + 1·5) / 4.0001; channel 1: (0·3 + 2·7) / 2.0001.
    found = MERGES["channel_fast"]().apply({"params": params}, inputs)
    np.testing.assert_allclose(found.reshape(-1), [8 / 4.0001, 14 / 2.0001], rtol=1e-6)
    params = {"weights": jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]]))}
    # Channel 0: ¾·1 + ¼·5; channel 1: the mean of 3 and 7.
    found = MERGES["channel_softmax"]().apply({"params": params}, inputs)
    np.testing.assert_allclose(found.reshape(-1), [2.0, 5.0], rtol=1e-6)


def test_attention_is_gated_by_the_largest_value_of_the_first_input():
    coarse = jnp.array([-2.0, np.log(3.0), 0.0, 1.0]).reshape(1, 2, 2, 1)  # Maximum log 3: σ is ¾.
    fine, orphan = jnp.full((1, 2, 2, 1), 4.0), jnp.full((1, 2, 2, 1), 10.0)
    found = MERGES["attention"]().apply({}, [coarse, fine])
    np.testing.assert_allclose(found, coarse + 3.0, rtol=1e-6)
    found = MERGES["attention"]().apply({}, [coarse, fine, orphan])
    np.testing.assert_allclose(found, coarse + 13.0, rtol=1e-6)
    np.testing.assert_array_equal(MERGES["attention"]().apply({}, [coarse]), coarse)


def test_attention_keeps_images_and_channels_apart():
    fine = jnp.ones((2, 1, 1, 2))
    coarse = jnp.log(jnp.array([[1.0, 3.0], [9.0, 1.0]])).reshape(2, 1, 1, 2)
    found = MERGES["attention"]().apply({}, [coarse, fine]) - coarse
    np.testing.assert_allclose(found.reshape(2, 2), [[0.5, 0.75], [0.9, 0.5]], rtol=1e-6)
