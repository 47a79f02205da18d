from effdet_jax.model.graphs import bifpn


def test_bifpn_of_five_levels_is_the_reference_graph():
    # google/automl's node list, offsets written as names.
    assert [(node.name, node.level, node.inputs) for node in bifpn(3, 7)] == [
        ("P6_td", 6, ("P6_in", "P7_in")),
        ("P5_td", 5, ("P5_in", "P6_td")),
        ("P4_td", 4, ("P4_in", "P5_td")),
        ("P3_out", 3, ("P3_in", "P4_td")),
        ("P4_out", 4, ("P4_in", "P4_td", "P3_out")),
        ("P5_out", 5, ("P5_in", "P5_td", "P4_out")),
        ("P6_out", 6, ("P6_in", "P6_td", "P5_out")),
        ("P7_out", 7, ("P7_in", "P6_out")),
    ]


def test_bifpn_of_six_levels_has_one_node_more_each_way():
    nodes = bifpn(3, 8)
    assert [node.name for node in nodes] == [
        "P7_td", "P6_td", "P5_td", "P4_td", "P3_out",
        "P4_out", "P5_out", "P6_out", "P7_out", "P8_out",
    ]  # fmt: skip
    assert nodes[-1].inputs == ("P8_in", "P7_out")
