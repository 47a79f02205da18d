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
    # Levels above are pooled from what has the pyramid's width already.
    _, of_levels = shapes(max_level=7, laterals="level")
    assert set(of_levels) == {"P3", "P4", "P5", "cell_0"}
    assert "P4_in" not in of_levels["cell_0"]["P4_td"]


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
    outputs = module.apply(transparent(module, features), features)
    upsampled = jnp.repeat(jnp.repeat(features[4], 2, 1), 2, 2)
    np.testing.assert_allclose(outputs[3], GAIN * jnp.maximum(features[3], upsampled), rtol=1e-5)


GAIN = 1 / np.sqrt(1 + 1e-3)  # What a normalisation with fresh statistics multiplies with.


def transparent(module, features):
    """Variables with which a node's convolution and normalisation multiply with `GAIN` alone."""

    def fill(path, leaf):
        *_, layer, name = (key.key for key in path)
        if name in ("scale", "var", "weights"):
            return np.ones(leaf.shape, np.float32)
        x = np.zeros(leaf.shape, np.float32)
        if name == "kernel":
            x[leaf.shape[0] // 2, leaf.shape[1] // 2] = 1.0 if layer == "depthwise" else np.eye(4)
        return x

    shapes = jax.eval_shape(module.init, jax.random.key(0), features)
    return jax.device_put(jax.tree.map_with_path(fill, dict(shapes)))


def test_nasfpn_computes_what_its_formulas_say(rng):
    sides = {3: 16, 4: 8, 5: 4}
    features = {n: rng.normal(size=(2, s, s, 4)).astype(np.float32) for n, s in sides.items()}
    settings = NodeSettings(4, act="relu", conv="dense", pooling="disjoint")
    module = Pyramid(settings, 1, "nasfpn", laterals="level")
    found = jax.jit(module.apply)(transparent(module, features), features)

    def down(x, by):
        b, h, w, c = x.shape
        return x.reshape(b, h // by, by, w // by, by, c).max((2, 4))

    def up(x, by):
        return x.repeat(by, 1).repeat(by, 2)

    def attention(coarse, fine):
        return coarse + fine / (1 + np.exp(-coarse.max((1, 2), keepdims=True)))

    def node(x):
        return GAIN * np.maximum(x, 0)

    p3, p4, p5 = features.values()
    p6, p7 = down(p5, 2), down(p5, 4)
    p4a = node(attention(up(p6, 4), p4))
    p4b = node(p4 + p4a)
    out = {3: node(p3 + up(p4b, 2))}
    out[4] = node(p4b + down(out[3], 2))
    out[5] = node(attention(down(out[4], 2), down(out[3], 4)) + p5)
    out[7] = node(attention(down(out[5], 4), down(p4b, 8)) + p7)
    out[6] = node(attention(up(out[7], 2), down(out[5], 2)))
    assert list(found) == [3, 4, 5, 6, 7]
    for level, x in found.items():
        np.testing.assert_allclose(x, out[level], rtol=1e-5, atol=1e-6)


# Parameters of one cell of 160 channels on B3's features: a separable node has
# 9·160 + 160² + 160 + 2·160, an edge from a backbone level of C channels (C + 1)·160 + 2·160.
NODE, EDGES = 27_520, {3: 8_160, 4: 22_240, 5: 61_920}


@pytest.mark.parametrize(
    ("graph", "fusion", "expected"),
    [
        ("fpn", "sum", 5 * NODE + EDGES[3] + EDGES[4] + EDGES[5]),
        ("panet", "sum", 10 * NODE + EDGES[3] + EDGES[4] + EDGES[5]),
        ("simple_panet", "sum", 8 * NODE + EDGES[3] + EDGES[4] + EDGES[5]),
        ("bifpn", "sum", 8 * NODE + EDGES[3] + 2 * (EDGES[4] + EDGES[5])),
        ("bifpn", "fast", 8 * NODE + EDGES[3] + 2 * (EDGES[4] + EDGES[5]) + 19),
        ("bifpn", "channel_fast", 8 * NODE + EDGES[3] + 2 * (EDGES[4] + EDGES[5]) + 19 * 160),
        ("fully_connected", "sum", 5 * (NODE + EDGES[3] + EDGES[4] + EDGES[5])),
        ("nasfpn", "fast", 7 * NODE + EDGES[3] + 2 * EDGES[4] + EDGES[5]),
        # Both halves of a BiFPN's edges, but that P3 is in two nodes of the second; 5 · 2 weights.
        ("qufpn", "sum", 21 * NODE + 3 * EDGES[3] + 4 * (EDGES[4] + EDGES[5]) + 10),
    ],
)
def test_parameters_of_a_cell(graph, fusion, expected):
    module = Pyramid(NodeSettings(160, fusion), 1, graph)
    features = {
        level: jax.ShapeDtypeStruct((1, 128 >> level, 128 >> level, channels), jnp.float32)
        for level, channels in {3: 48, 4: 136, 5: 384}.items()
    }
    params = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    assert sum(x.size for x in jax.tree.leaves(params["P6"])) == EDGES[5]
    assert sum(x.size for x in jax.tree.leaves(params["cell_0"])) == expected


def test_parameters_of_nasfpn_on_a_resnet_50():
    # 7 cells of 7 nodes of 9·256² + 3·256, and three laterals of (C + 3)·256: the 60,057,998 of the
    # published 7@256, less 23,508,032 of the backbone and 6,691,150 of the heads.
    module = Pyramid(NodeSettings(256, conv="dense"), 7, "nasfpn", laterals="level")
    features = {
        level: jax.ShapeDtypeStruct((1, 128 >> level, 128 >> level, 64 << level), jnp.float32)
        for level in (3, 4, 5)
    }
    params = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == 60_057_998 - 23_508_032 - 6_691_150
