"""How fast a step can be at most: arithmetic on a chip's published peaks, nothing measured.

A step takes at least as long as its arithmetic at the peak rate, and at least as long as its memory
traffic at the peak bandwidth. Exchanges between chips come on top: the bytes of an all-reduce at the
links' bandwidth, and a latency for each exchange, which for hundreds of small ones (the statistics
of every batch normalisation) is what counts.
"""

import dataclasses
from collections.abc import Sequence

from effdet_jax.plan.chips import Chip, Topology, slice_of
from effdet_jax.plan.program import Collective, Program

COCO_IMAGES = 118_287  # train2017
HOP_SECONDS = 1e-6  # From a chip to the next; an assumption, not a published figure.


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What one step sends between chips.

    Attributes:
      seconds: of the bytes, at the links' bandwidth.
      latency: of the messages, hop by hop.
    """

    seconds: float
    latency: float

    @property
    def total(self) -> float:
        return self.seconds + self.latency


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that a step takes at least, by what it waits for.

    Attributes:
      arithmetic: the model's own at the peak rate.
      memory: the program's traffic at the peak bandwidth.
      exchange: between chips.
    """

    arithmetic: float
    memory: float
    exchange: Exchange

    @property
    def chip(self) -> float:
        """Of one chip by itself: arithmetic and traffic go on at the same time."""
        return max(self.arithmetic, self.memory)

    @property
    def step(self) -> float:
        """Of all of it, exchanges not hidden behind other work."""
        return self.chip + self.exchange.total

    @property
    def limit(self) -> str:
        """What takes longest."""
        times = {
            "arithmetic": self.arithmetic,
            "memory bandwidth": self.memory,
            "bytes between chips": self.exchange.seconds,
            "latency between chips": self.exchange.latency,
        }
        return max(times, key=times.get)


def bound(program: Program, flops: float, chip: Chip, topology: Topology | None = None) -> Bound:
    """The bound of a program on a slice, or on one device alone.

    Args:
      program: of which traffic and exchanges are known.
      flops: of the model per device and step.
      chip: where it runs; a device has its part of the chip's peaks.
      topology: the slice.
    """
    return Bound(
        arithmetic=flops * chip.devices / chip.flops,
        memory=program.traffic * chip.devices / chip.hbm_bandwidth,
        exchange=exchange(program.collectives, topology) if topology else Exchange(0.0, 0.0),
    )


def exchange(collectives: Sequence[Collective], topology: Topology) -> Exchange:
    """Ring algorithms over all links: an all-reduce of n chips sends 2 (n - 1) / n of its bytes.

    Every exchange travels the slice's longest way, an all-reduce there and back. Groups smaller
    than the slice are taken as if they were all of it.
    """
    n = topology.chips
    if n == 1:
        return Exchange(0.0, 0.0)
    bandwidth = topology.chip.ici_bandwidth * topology.ring_fraction
    seconds = latency = 0.0
    for row in collectives:
        passes = {"all-reduce": 2, "collective-permute": 0}.get(row.kind, 1)
        share = passes * (n - 1) / n if passes else 1.0
        seconds += share * row.bytes / bandwidth
        latency += row.count * max(passes * topology.hops, 1) * HOP_SECONDS
    return Exchange(seconds, latency)


@dataclasses.dataclass(frozen=True)
class ScalePoint:
    """A step on `chips` chips with the same batch per chip, and its efficiency against one chip."""

    chips: int
    bound: Bound
    efficiency: float


def weak_scaling(alone: Bound, collectives: Sequence[Collective], chip: Chip) -> list[ScalePoint]:
    """1 … 256 chips, each with the batch it has now: what exchanges cost as a slice grows.

    What is exchanged is the same for any number of chips: gradients and statistics, not images.
    """
    points = []
    for chips in (1, 4, 8, 16, 32, 64, 128, 256):
        if topology := slice_of(chip, chips):
            cost = exchange(collectives, topology)
            here = dataclasses.replace(alone, exchange=cost)
            points.append(ScalePoint(chips, here, alone.chip / here.step))
    return points


def epoch_seconds(images_per_second: float) -> float:
    """Of COCO train2017."""
    return COCO_IMAGES / images_per_second
