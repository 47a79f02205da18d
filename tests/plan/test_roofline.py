import pytest

from effdet_jax.plan.chips import parse_topology
from effdet_jax.plan.program import Collective, Program
from effdet_jax.plan.roofline import (
    bound,
    epoch_seconds,
    exchange,
    weak_scaling,
)

V5E = parse_topology("v5e-256")
PROGRAM = Program(
    peak=4 * 2**30, traffic=81.9e9, collectives=(Collective("all-reduce", 0, 2, 10**8, 10**8),)
)


def test_a_step_waits_for_the_slowest_and_then_for_its_neighbours():
    # 1.97 TFLOP at 197 TFLOP/s, 81.9 GB at 819 GB/s.
    limits = bound(PROGRAM, 1.97e12, V5E.chip, V5E)
    assert limits.arithmetic == pytest.approx(0.01)
    assert limits.memory == pytest.approx(0.1)
    assert limits.limit == "memory bandwidth"
    # 2 · 255/256 · 100 MB at 200 GB/s; 2 messages there and back over 8 + 8 hops of 1 µs.
    assert limits.exchange.seconds == pytest.approx(2 * 255 / 256 * 1e8 / 200e9)
    assert limits.exchange.latency == pytest.approx(2 * 2 * 16e-6)
    assert limits.step == pytest.approx(0.1 + 0.00099609375 + 64e-6)


def test_a_core_of_v3_has_half_a_chip():
    v3 = parse_topology("v3-8")
    assert bound(PROGRAM, 61.5e12, v3.chip, v3).arithmetic == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-reduce", 2 * 7 / 8), ("all-gather", 7 / 8), ("collective-permute", 1)]
)
def test_kinds_send_what_their_ring_algorithm_sends(kind, sent):
    topology = parse_topology("v5e-8")  # No side is closed: half of 200 GB/s.
    cost = exchange([Collective(kind, 0, 1, 10**9, 10**9)], topology)
    assert cost.seconds == pytest.approx(sent * 1e9 / 100e9)


def test_nothing_is_exchanged_by_one():
    alone = parse_topology("v5e-1")
    cost = exchange(PROGRAM.collectives, alone)
    assert cost.seconds == cost.latency == 0.0
    assert bound(PROGRAM, 1.0, alone.chip).step == pytest.approx(0.1)


def test_efficiency_falls_with_the_ways_as_a_slice_grows():
    limits = bound(PROGRAM, 1.97e12, V5E.chip, V5E)
    points = {point.chips: point for point in weak_scaling(limits, PROGRAM.collectives, V5E.chip)}
    assert list(points) == [1, 4, 8, 16, 32, 64, 128, 256]
    assert points[1].efficiency == 1.0
    assert points[256].efficiency == pytest.approx(0.1 / limits.step)
    # 2 · 63/64 · 100 MB at half of 200 GB/s, 2 there and back over 7 + 7 hops.
    assert points[64].bound.step == pytest.approx(0.1 + 2 * 63 / 64 * 1e8 / 100e9 + 56e-6)


def test_an_epoch_is_cocos():
    assert epoch_seconds(118_287) == 1.0
