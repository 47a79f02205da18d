import pytest

from effdet_jax.model.graphs import PYRAMIDS, bifpn

# Nodes as 'level:inputs', inputs by number: 0 … n - 1 are the cell's inputs from the finest level up,
# then its nodes in order. bifpn, panet and qufpn as PyTorch's effdet 0.4.1 has them, nasfpn as
# tensorflow/tpu; the others as the drawings of arXiv:1911.09070v1.
NODE_LISTS = {
    ("bifpn", 7): "6:3,4 5:2,5 4:1,6 3:0,7 4:1,7,8 5:2,6,9 6:3,5,10 7:4,11",
    ("bifpn", 8): "7:4,5 6:3,6 5:2,7 4:1,8 3:0,9 4:1,9,10 5:2,8,11 6:3,7,12 7:4,6,13 8:5,14",
    ("fpn", 7): "7:4 6:3,5 5:2,6 4:1,7 3:0,8",
    ("fpn", 8): "8:5 7:4,6 6:3,7 5:2,8 4:1,9 3:0,10",
    ("panet", 7): "7:4 6:3,5 5:2,6 4:1,7 3:0,8 3:9 4:8,10 5:7,11 6:6,12 7:5,13",
    ("panet", 8): "8:5 7:4,6 6:3,7 5:2,8 4:1,9 3:0,10 3:11 4:10,12 5:9,13 6:8,14 7:7,15 8:6,16",
    ("simple_panet", 7): "6:3,4 5:2,5 4:1,6 3:0,7 4:7,8 5:6,9 6:5,10 7:4,11",
    ("simple_panet", 8): "7:4,5 6:3,6 5:2,7 4:1,8 3:0,9 4:9,10 5:8,11 6:7,12 7:6,13 8:5,14",
    ("fully_connected", 7): " ".join(f"{level}:0,1,2,3,4" for level in range(3, 8)),
    ("fully_connected", 8): " ".join(f"{level}:0,1,2,3,4,5" for level in range(3, 9)),
    ("nasfpn", 7): "4:3,1 4:1,5 3:0,6 4:6,7 5:8,7,2 7:9,6,4 6:10,9",
    ("qufpn", 7): (
        "6:3,4 5:2,5 4:1,6 3:0,7 4:1,7,8 5:2,6,9 6:3,5,10 7:4,11 "
        "4:1,0 5:2,13 6:3,14 7:4,15 6:3,15,16 5:2,14,17 4:1,13,18 3:0,19 "
        "3:8,20 4:9,19 5:10,18 6:11,17 7:12,16"
    ),
    ("qufpn", 8): (
        "7:4,5 6:3,6 5:2,7 4:1,8 3:0,9 4:1,9,10 5:2,8,11 6:3,7,12 7:4,6,13 8:5,14 "
        "4:1,0 5:2,16 6:3,17 7:4,18 8:5,19 7:4,19,20 6:3,18,21 5:2,17,22 4:1,16,23 3:0,24 "
        "3:10,25 4:11,24 5:12,23 6:13,22 7:14,21 8:15,20"
    ),
}


def numbered(nodes, levels) -> str:
    names = [f"P{level}_in" for level in levels] + [node.name for node in nodes]
    return " ".join(
        f"{node.level}:{','.join(str(names.index(name)) for name in node.inputs)}" for node in nodes
    )


@pytest.mark.parametrize(("name", "max_level"), NODE_LISTS)
def test_node_list(name, max_level):
    nodes = PYRAMIDS[name](3, max_level)
    assert numbered(nodes, range(3, max_level + 1)) == NODE_LISTS[name, max_level]


def test_every_graph_but_nasfpn_has_six_levels_too():
    assert {name for name, _ in NODE_LISTS} == set(PYRAMIDS)
    assert {name for name, max_level in NODE_LISTS if max_level == 8} == set(PYRAMIDS) - {"nasfpn"}
    with pytest.raises(ValueError, match="levels 3 to 7 alone; min_level is 3, max_level 8"):
        PYRAMIDS["nasfpn"](3, 8)


# Narrow pyramids, deep ones, and one that starts elsewhere.
@pytest.mark.parametrize("levels", [(3, 4), (3, 5), (2, 6), (3, 9)])
@pytest.mark.parametrize("name", sorted(set(PYRAMIDS) - {"nasfpn"}))
def test_a_graph_of_any_levels_puts_out_each_once(name, levels):
    nodes = PYRAMIDS[name](*levels)
    known = {f"P{level}_in" for level in range(levels[0], levels[1] + 1)}
    for node in nodes:  # Inputs before consumers, no name twice.
        assert set(node.inputs) <= known and node.name not in known
        known.add(node.name)
    outputs = {node.level: node.name for node in nodes}  # The last node of a level.
    assert outputs == {n: f"P{n}_out" for n in range(levels[0], levels[1] + 1)}
    consumed = {name for node in nodes for name in node.inputs}
    assert known - consumed <= set(outputs.values())  # Nothing is computed in vain.


def test_names_are_scopes_of_published_checkpoints():
    names = [node.name for node in bifpn(3, 7)]
    assert names == ["P6_td", "P5_td", "P4_td", "P3_out", "P4_out", "P5_out", "P6_out", "P7_out"]


def test_merges_that_do_not_follow_the_spec():
    assert [node.merge for node in PYRAMIDS["qufpn"](3, 7)] == [""] * 16 + ["fast"] * 5
    assert [node.merge for node in PYRAMIDS["nasfpn"](3, 7)] == (
        ["attention", "sum", "sum", "sum", "attention", "attention", "attention"]
    )
