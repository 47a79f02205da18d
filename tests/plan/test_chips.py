import pytest

from effdet_jax.plan.chips import GIB, TPUS, TopologyError, parse_topology


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5e:8x8", "v5e:8x8", 64),
        ("v5e-64", "v5e:8x8", 64),
        ("v5litepod-8", "v5e:2x4", 8),
        ("v5e-1", "v5e:1x1", 1),
        ("v6e-256", "v6e:16x16", 256),
        ("v4-128", "v4:4x4x4", 64),  # TensorCores, two per chip.
        ("v3-8", "v3:2x2", 4),
        ("v5p-8", "v5p:2x2x1", 4),
        ("V4:2x2x1", "v4:2x2x1", 4),
        ("v5e:4x16", "v5e:4x16", 64),
    ],
)
def test_slices_have_two_names(text, name, chips):
    topology = parse_topology(text)
    assert (topology.name, topology.chips) == (name, chips)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("h100", "isn't like 'v5e:8x8' or 'v5e-64'; there are v3, v4, v5e, v5p, v6e"),
        ("v9-8", "there are v3, v4"),
        ("v5e-7", "there is no usual slice v5e-7; there are v5e-1, v5e-4, v5e-8"),
        ("v4-9", "there are v4-8, v4-16"),
        ("v5e:2x2x2", "lie in 2 dimensions, such as v5e:16x16"),
    ],
)
def test_others_are_refused_with_what_there_is(text, says):
    with pytest.raises(TopologyError, match="topology|usual") as caught:
        parse_topology(text)
    assert says in str(caught.value)


def test_libtpu_is_told_what_the_name_of_a_slice_leaves_open():
    assert parse_topology("v5e-8").options == {"chips_per_host_bounds": (2, 4, 1)}
    assert parse_topology("v4-8").options == {"chip_config_name": "megacore"}
    assert parse_topology("v6e-64").options == {}


def test_peaks_are_in_units_of_one():
    for chip in TPUS:
        assert 1e14 < chip.flops < 1e15 and 16 * GIB <= chip.hbm < 100 * GIB
