"""What vendors publish of their chips, and how slices of TPUs are named and shaped."""

import dataclasses
import math
import re
from typing import Any

from effdet_jax.errors import UserError

GIB = 2**30
RESERVED = 258 * 2**20  # Bytes of a TPU's memory that libtpu keeps for itself (v5e's log).


class TopologyError(UserError):
    """A slice there isn't, or none that is known here; the message says which there are."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip.

    Attributes:
      name: 'v5e'; of a GPU what its `device_kind` holds.
      flops: bfloat16 operations per second.
      hbm: bytes of memory.
      hbm_bandwidth: bytes per second.
      ici_bandwidth: bytes per second over all links to other chips together, one direction; 0 if
        that depends on the machine.
      dimensions: of the grid of TPU chips.
      ring: sides of a slice that are a multiple of this are closed to rings.
      cores: in the name of a slice per chip: 'v4-128' counts TensorCores and is 64 chips.
      devices: that jax sees per chip.
      matrix_units: of 128 × 128 multiply-adds per cycle; 0 if they are others.
      source: where the figures are published.
    """

    name: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    ici_bandwidth: float = 0.0
    dimensions: int = 0
    ring: int = 1
    cores: int = 1
    devices: int = 1
    matrix_units: int = 0
    source: str = ""

    @property
    def clock(self) -> float:
        """Cycles per second at the peak, 0 if that isn't known."""
        return self.flops / (2 * 128**2 * self.matrix_units) if self.matrix_units else 0.0


# Memory: '16 GB' is taken as 16 GiB; libtpu itself says so when a program is too large.
# Links: "all-reduce bandwidth per Pod" over the Pod's chips (v3 340 TB/s over 1024, v4 1.1 PB/s over
# 4096, v5e 51.2 TB/s and v6e 102.4 TB/s over 256), which is half of the bidirectional bandwidth per
# chip where that is published as well; of v5p only that is, 1200 GB/s.
_PAGE = "https://cloud.google.com/tpu/docs/"
TPUS = (
    Chip(
        "v3",
        123e12,
        32 * GIB,
        900e9,
        280e9,
        2,
        16,
        cores=2,
        devices=2,
        matrix_units=4,
        source=_PAGE + "v3",
    ),
    Chip("v4", 275e12, 32 * GIB, 1200e9, 268e9, 3, 4, cores=2, matrix_units=8, source=_PAGE + "v4"),
    Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 2, 16, matrix_units=4, source=_PAGE + "v5e"),
    Chip(
        "v5p", 459e12, 95 * GIB, 2765e9, 600e9, 3, 4, cores=2, matrix_units=8, source=_PAGE + "v5p"
    ),
    Chip("v6e", 918e12, 32 * GIB, 1638e9, 400e9, 2, 16, source=_PAGE + "v6e"),
)
# Without sparsity, which vendors count double.
GPUS = (
    Chip("H200", 989e12, 141e9, 4.8e12, source="https://www.nvidia.com/en-us/data-center/h200"),
    Chip(
        "H100 80GB HBM3",
        989e12,
        80e9,
        3.35e12,
        source="https://www.nvidia.com/en-us/data-center/h100",
    ),
    Chip(
        "A100-SXM4-80GB",
        312e12,
        80e9,
        2.039e12,
        source="https://www.nvidia.com/en-us/data-center/a100",
    ),
)
# Shapes of the usual slices by number of chips, as Cloud TPU makes them.
_SHAPES_2D = {
    1: (1, 1),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    256: (16, 16),
}
_SHAPES_3D = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: chips in a grid of `shape`."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As libtpu calls it: 'v5e:8x8'."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Virtual machines with a process each: of 4 chips, or one of them all if they are 1 or 8."""
        single = self.chip.dimensions == 2 and self.chips in (1, 8)
        return 1 if single else max(1, self.chips // 4)

    @property
    def ring_fraction(self) -> float:
        """Part of the links that an all-reduce can use: half where a side isn't closed to a ring."""
        return 1.0 if all(side % self.chip.ring == 0 for side in self.shape if side > 1) else 0.5

    @property
    def hops(self) -> int:
        """Between the chips farthest from each other, along one side after the other."""
        return sum(side // 2 if side % self.chip.ring == 0 else side - 1 for side in self.shape)

    @property
    def options(self) -> dict[str, Any]:
        """What `get_topology_desc` has to be told beside the name."""
        options: dict[str, Any] = {}
        if self.chip.dimensions == 2 and self.chips in (1, 8):  # One virtual machine has them all.
            options["chips_per_host_bounds"] = (*self.shape, 1)
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # Both cores of a chip are one device.
        return options


def slice_of(chip: Chip, chips: int) -> Topology | None:
    """The usual slice of that many chips."""
    shape = (_SHAPES_2D if chip.dimensions == 2 else _SHAPES_3D).get(chips)
    return Topology(chip, shape) if shape else None


def parse_topology(text: str) -> Topology:
    """'v5e:8x8' as libtpu names it, or 'v5e-64' as Cloud TPU names what you order.

    Raises:
      TopologyError: it is neither.
    """
    found = re.fullmatch(r"(v\d+\w*?)(?:lite|litepod)?(?::(\d+(?:x\d+)+)|-(\d+))", text.lower())
    names = {chip.name: chip for chip in TPUS} | {"v5": TPUS[2], "v6": TPUS[4]}
    if not found or found[1] not in names:
        known = ", ".join(chip.name for chip in TPUS)
        raise TopologyError(
            f"--topology={text} isn't like 'v5e:8x8' or 'v5e-64'; there are {known}"
        )
    chip = names[found[1]]
    if found[3]:
        topology = slice_of(chip, int(found[3]) // chip.cores)
        if topology and topology.chips * chip.cores == int(found[3]):
            return topology
        shapes = _SHAPES_2D if chip.dimensions == 2 else _SHAPES_3D
        known = ", ".join(f"{chip.name}-{chips * chip.cores}" for chips in shapes)
        raise TopologyError(f"there is no usual slice {text}; there are {known}, and any shape")
    shape = tuple(int(side) for side in found[2].split("x"))
    if len(shape) != chip.dimensions:
        raise TopologyError(
            f"--topology={text}: {chip.name} chips lie in {chip.dimensions} dimensions, such as "
            f"{slice_of(chip, 64).name}"
        )
    return Topology(chip, shape)


def gpu_of(device_kind: str) -> Chip | None:
    """Published peaks of a GPU by what jax calls it, None if they aren't known here."""
    return next((chip for chip in GPUS if chip.name in device_kind.upper()), None)
