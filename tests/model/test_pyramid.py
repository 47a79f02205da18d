import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from effdet_jax.model.graphs import PYRAMIDS, Node
from effdet_jax.model.merge import MERGES
from effdet_jax.model.pyramid import NodeSettings, Pyramid

FEATURES = {3: (1, 8, 8, 5), 4: (1, 4, 4, 6), 5: (1, 2, 2, 7)}


def shapes(**attributes):
    """(shapes of the outputs, shapes of the parameters) of a pyramid of 8 channels."""
    module = Pyramid(NodeSettings(8, **attributes.pop("settings", {})), 1, **attributes)
    features = {level: jax.ShapeDtypeStruct(s, jnp.float32) for level, s in FEATURES.items()}
    outputs, variables = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x), features
    )
    return {n: x.shape for n, x in outputs.items()}, variables["params"]


def test_levels_above_the_backbone_are_pooled_from_its_last():
    outputs, params = shapes(max_level=7)
    assert outputs == {
        3: (1, 8, 8, 8),
        4: (1, 4, 4, 8),
        5: (1, 2, 2, 8),
        6: (1, 1, 1, 8),
        7: (1, 1, 1, 8),
    }
    assert params["P6"]["conv"]["kernel"].shape == (1, 1, 7, 8) and "P7" not in params


def test_a_lateral_belongs_to_every_node_or_to_the_level():
    _, of_nodes = shapes(max_level=5)
    assert "P4_in" in of_nodes["cell_0"]["P4_td"] and "P4_in" in of_nodes["cell_0"]["P4_out"]
    assert "P4" not in of_nodes
    _, of_levels = shapes(max_level=5, laterals="level")
    assert {"P3", "P4", "P5"} < set(of_levels) and "P4_in" not in of_levels["cell_0"]["P4_td"]


def test_a_dense_node_has_one_kernel():
    _, params = shapes(max_level=5, settings={"conv": "dense"})
    assert params["cell_0"]["P4_td"]["conv"]["kernel"].shape == (3, 3, 8, 8)


@pytest.fixture
def largest(monkeypatch):
    """A graph of one node a level, whose merge is the maximum: two entries from outside."""

    class Largest(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return jax.tree.reduce(jnp.maximum, inputs)

    def top_down(min_level, max_level):
        levels = range(max_level - 1, min_level - 1, -1)
        pairs = [
            (f"P{n}_in", f"P{n + 1}_" + ("in" if n + 1 == max_level else "out")) for n in levels
        ]
        nodes = [Node(f"P{n}_out", n, pair, "largest") for n, pair in zip(levels, pairs)]
        return (Node(f"P{max_level}_out", max_level, (f"P{max_level}_in",), "sum"), *nodes)

    monkeypatch.setitem(MERGES, "largest", Largest)
    monkeypatch.setitem(PYRAMIDS, "top_down", top_down)


def test_a_graph_and_a_merge_from_outside_need_no_change_here(largest):
    outputs, params = shapes(max_level=5, graph="top_down")
    assert list(outputs) == [3, 4, 5] and set(params["cell_0"]) == {"P3_out", "P4_out", "P5_out"}
    assert "fusion" not in params["cell_0"]["P4_out"]


def test_without_weights_a_node_merges_by_its_own_word(largest, rng):
    module = Pyramid(NodeSettings(4, act=""), 1, "top_down", 3, 4)
    features = {
        n: jnp.asarray(rng.normal(size=s[:3] + (4,)), jnp.float32) for n, s in FEATURES.items()
    }
    variables = module.init(jax.random.key(0), features)
    # The convolution passes its centre on, and the fresh normalisation all but nothing changes.
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    for node in params["cell_0"].values():
        node["conv"]["depthwise"]["kernel"] = node["conv"]["depthwise"]["kernel"].at[1, 1].set(1.0)
        node["conv"]["pointwise"]["kernel"] = jnp.eye(4)[None, None]
        node["bn"]["scale"] = jnp.ones(4)
    outputs = module.apply({**variables, "params": params}, features)
    upsampled = jnp.repeat(jnp.repeat(features[4], 2, 1), 2, 2)
    gain = 1 / np.sqrt(1 + 1e-3)  # What a normalisation with fresh statistics multiplies with.
    np.testing.assert_allclose(outputs[3], gain * jnp.maximum(features[3], upsampled), rtol=1e-5)
