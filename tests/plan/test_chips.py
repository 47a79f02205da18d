import pytest

from effdet_jax.plan.chips import TPUS, TopologyError, gpu_of, parse_topology, slice_of


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
        ("v5e:2x2x2", "lie in 2 dimensions, such as v5e:8x8"),
    ],
)
def test_others_are_refused_with_what_there_is(text, says):
    with pytest.raises(TopologyError, match="topology|usual") as caught:
        parse_topology(text)
    assert says in str(caught.value)


def test_rings_and_ways():
    # v5e closes sides of 16, v4 sides that are multiples of 4: then the way round is half as long.
    assert parse_topology("v5e-256").ring_fraction == 1.0
    assert parse_topology("v5e-256").hops == 8 + 8
    assert parse_topology("v5e-64").ring_fraction == 0.5
    assert parse_topology("v5e-64").hops == 7 + 7
    assert parse_topology("v4-128").ring_fraction == 1.0
    assert parse_topology("v4-128").hops == 2 + 2 + 2
    assert parse_topology("v5e-1").hops == 0


def test_peaks_are_in_units_of_one():
    for chip in TPUS:
        assert 1e14 < chip.flops < 1e15 and 1e10 < chip.hbm < 2e11
        assert 5e11 < chip.hbm_bandwidth < 5e12 and 1e11 < chip.ici_bandwidth < 1e12
        assert chip.source.endswith(chip.name)
        assert slice_of(chip, 64).chips == 64


def test_gpus_are_known_by_what_jax_calls_them():
    assert gpu_of("NVIDIA H200").hbm == 141e9
    assert gpu_of("NVIDIA H100 80GB HBM3").name == "H100 80GB HBM3"
    assert gpu_of("NVIDIA H100 PCIe") is None  # Slower, and not in the table.
    assert gpu_of("cpu") is None
