"""The form that recomputes equals its plain twin: `function(ops.normalization.normalize(…))`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.kernels.recompute import Normalization, normalize_then
from effdet_jax.ops.normalization import activation, batch_statistics, normalize

EPSILON = 1e-3


def consumer(values, weights):
    return jnp.sin(values @ weights)


def recomputed(x, scale, bias, weights, act):
    mean, var = batch_statistics(x, jnp.zeros(x.shape[-1]))
    normalization = Normalization(x, scale, bias, mean, var, EPSILON, activation(act))
    return jnp.sum(normalize_then(consumer, normalization, weights))


def plain(x, scale, bias, weights, act):
    mean, var = jnp.mean(x, (0, 1)), jnp.var(x, (0, 1))  # Gradients flow through them.
    return jnp.sum(consumer(normalize(x, scale, bias, mean, var, EPSILON, act), weights))


@pytest.mark.parametrize("act", ["", "swish", "relu6"])
def test_values_and_gradients_are_those_of_the_plain_form(rng, act):
    x, weights = (
        jnp.asarray(rng.normal(1.0, 2.0, shape).astype(np.float32)) for shape in ((5, 7, 4), (4, 3))
    )
    arguments = (x, jnp.linspace(0.5, 2, 4), jnp.linspace(-1, 1, 4), weights)
    found, expected = (
        jax.jit(jax.value_and_grad(form, (0, 1, 2, 3)), static_argnums=4)(*arguments, act)
        for form in (recomputed, plain)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected
    )


def test_what_is_kept_for_the_backward_pass_has_no_activated_values():
    """Of three arrays as large as x, the gradient's program holds one from the forward pass."""
    x = jax.ShapeDtypeStruct((64, 64, 8), jnp.float32)
    vector, weights = jax.ShapeDtypeStruct((8,), jnp.float32), jnp.ones((8, 8))

    def residuals(form):
        _, pull = jax.vjp(
            lambda *args: form(*args, weights, "swish"),
            *(jnp.ones(a.shape) for a in (x, vector, vector)),
        )
        return sum(leaf.size >= 64 * 64 * 8 for leaf in jax.tree.leaves(pull))

    assert residuals(recomputed) < residuals(plain)
