import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv
from effdet_jax.ops.normalization import activation
from tests.conftest import ROUNDING


def setup(rng, act=""):
    x = jnp.asarray(rng.normal(3.0, 2.0, (4, 3, 5, 6)).astype(np.float32))
    module = BatchNorm(act)
    variables = module.init(jax.random.key(0), x, train=False)
    params = {"scale": jnp.linspace(0.5, 2, 6), "bias": jnp.linspace(-1, 1, 6)}
    return x, module, {**variables, "params": params}


@pytest.mark.parametrize("act", ["", "swish", "relu6"])
def test_training_equals_flax_in_value_and_gradient(rng, act):
    x, module, variables = setup(rng, act)
    reference = nn.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3)

    def ours(params, x):
        y, _ = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return y

    def flax(params, x):
        y, _ = reference.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return activation(act)(y)

    np.testing.assert_allclose(
        ours(variables["params"], x), flax(variables["params"], x), atol=2e-5
    )
    weights = jnp.asarray(rng.normal(size=x.shape).astype(np.float32))

    def gradients(function):
        weighted = jax.grad(lambda params, x: jnp.sum(weights * function(params, x)), (0, 1))
        return weighted(variables["params"], x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), gradients(ours), gradients(flax)
    )


def test_running_statistics_keep_99_percent_and_take_the_unbiased_variance(rng):
    x, module, variables = setup(rng)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    rows = np.asarray(x).reshape(-1, 6)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.01 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.99 + 0.01 * rows.var(0, ddof=1), rtol=1e-5)


def test_variance_far_from_zero_is_exact_once_the_running_mean_is_near(rng):
    x = jnp.asarray(rng.normal(1000.0, 1.0, (8, 16, 16, 6)).astype(np.float32))
    _, module, variables = setup(rng)
    stats = {"mean": jnp.full(6, 998.0), "var": jnp.ones(6)}
    y, updated = module.apply(
        {**variables, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )
    exact = np.asarray(x, np.float64).reshape(-1, 6)
    wanted = 0.99 + 0.01 * exact.var(0, ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], wanted, rtol=5e-6 + ROUNDING)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    normal = (np.asarray(x) - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-3) * scale + bias
    np.testing.assert_allclose(y, normal, atol=2e-3 + 60 * ROUNDING)


def test_one_value_per_channel_has_no_unbiased_variance_but_stays_finite():
    module = BatchNorm("swish")
    x = jnp.full((1, 1, 1, 2), 7.0)
    variables = module.init(jax.random.key(0), x, train=False)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert (y == 0).all()  # swish(0)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.99)


def test_inference_uses_the_running_statistics(rng):
    x, module, variables = setup(rng)
    stats = {"mean": jnp.full(6, 3.0), "var": jnp.full(6, 4.0)}
    y = module.apply({**variables, "batch_stats": stats}, x, train=False)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(4.001) * scale + bias, atol=1e-5)


def test_statistics_of_bfloat16_are_float32(rng):
    # Mean 1000, deviation 1: bfloat16 has steps of 4 there, and sums of it none at all.
    x = jnp.asarray(1000 + rng.normal(size=(8, 16, 16, 2))).astype(jnp.bfloat16)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=False)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert updated["batch_stats"]["mean"].dtype == jnp.float32
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.01 * exact.mean(0), rtol=1e-5)


def test_the_layer_it_feeds_gets_the_same_values_and_gradients(rng):
    x, _, variables = setup(rng, "swish")
    layer = Conv(3, dtype=jnp.float32)
    weights = layer.init(jax.random.key(1), x)["params"]

    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x, *, fed):
            norm, conv = BatchNorm("swish", name="norm"), Conv(3, name="conv")
            return norm(x, train=True, then=conv) if fed else conv(norm(x, train=True))

    def total(params, x, fed):
        given = {"params": params, "batch_stats": {"norm": variables["batch_stats"]}}
        y, _ = Pair().apply(given, x, fed=fed, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    arguments = ({"norm": variables["params"], "conv": weights}, x)
    gradients = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        gradients(*arguments, True),
        gradients(*arguments, False),
    )
