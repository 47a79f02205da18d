import jax
import jax.numpy as jnp

from effdet_jax.detection.heads import Head

FEATURES = {3: jnp.ones((2, 4, 6, 8)), 4: jnp.ones((2, 2, 3, 8))}


def test_convolutions_are_shared_by_levels_and_normalisations_are_not():
    head = Head(5, anchors=9, width=8, depth=2)
    variables = jax.eval_shape(lambda: head.init(jax.random.key(0), FEATURES))
    assert set(variables["params"]) == {"conv_0", "conv_1", "predict"} | {
        f"bn_{repeat}_P{level}" for repeat in range(2) for level in (3, 4)
    }
    assert variables["params"]["predict"]["pointwise"]["kernel"].shape == (1, 1, 8, 45)
    outputs = jax.eval_shape(head.apply, variables, FEATURES)
    assert {n: x.shape for n, x in outputs.items()} == {3: (2, 4, 6, 9, 5), 4: (2, 2, 3, 9, 5)}


def test_a_fresh_head_predicts_its_bias():
    head = Head(1, anchors=1, width=8, depth=1, bias=-2.0)
    variables = head.init(jax.random.key(0), FEATURES)
    variables["params"]["predict"]["pointwise"]["kernel"] *= 0
    assert (head.apply(variables, FEATURES)[3] == -2.0).all()


def test_a_head_without_normalisation_is_convolutions_and_activations():
    head = Head(1, anchors=1, width=8, depth=1, act="relu", conv="dense", norm=False)
    params = head.init(jax.random.key(0), FEATURES)["params"]
    assert set(params) == {"conv_0", "predict"}
    # The middle pixel of the first channel is passed on; what is below 0 isn't.
    for name in params:
        params[name]["kernel"] = jnp.zeros_like(params[name]["kernel"]).at[1, 1, 0, 0].set(1.0)
    for sign, expected in ((1, 3.0), (-1, 0.0)):
        params["conv_0"]["bias"] = jnp.full(8, 2.0 * sign)
        features = {3: sign * FEATURES[3]}
        assert (head.apply({"params": params}, features)[3] == expected).all()


def test_a_dense_head_has_one_kernel_a_convolution():
    head = Head(4, anchors=9, width=8, depth=1, conv="dense")
    params = jax.eval_shape(lambda: head.init(jax.random.key(0), FEATURES))["params"]
    assert params["conv_0"]["kernel"].shape == (3, 3, 8, 8)
    assert params["predict"]["kernel"].shape == (3, 3, 8, 36)
