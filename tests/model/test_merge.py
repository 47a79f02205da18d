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
    ],
)
def test_fusion_with_fresh_weights(method, expected):
    module = MERGES[method]()
    variables = module.init(jax.random.key(0), INPUTS)
    assert ("params" in variables) == (method != "sum")
    np.testing.assert_allclose(module.apply(variables, INPUTS).reshape(-1), expected, rtol=1e-6)


def test_weights_are_an_explicit_parameter():
    params = MERGES["fast"]().init(jax.random.key(0), INPUTS)["params"]
    assert jax.tree.map(jnp.shape, params) == {"weights": (2,)}


def test_fast_fusion_ignores_negative_weights():
    found = normalized_weights(jnp.array([2.0, -5.0, 1.0]), "fast")
    np.testing.assert_allclose(found, np.array([2.0, 0.0, 1.0]) / 3.0001, rtol=1e-6)


def test_softmax_weights_by_hand():
    found = normalized_weights(jnp.array([0.0, np.log(3.0)]), "softmax")
    np.testing.assert_allclose(found, [0.25, 0.75], rtol=1e-6)


def test_unknown_method():
    with pytest.raises(ValueError, match="'attn' is unknown"):
        normalized_weights(jnp.ones(2), "attn")
