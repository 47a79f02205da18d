"""What vendors publish of TPU chips, and how slices of them are named and shaped."""

import dataclasses
import math
import re
from typing import Any

from effdet_jax.errors import UserError

GIB = 2**30
RESERVED = 258 * 2**20  # Bytes of a TPU's memory that libtpu keeps for itself (v5e's log).


class TopologyError(UserError):
    """There is no such slice, or none that is known here; the message says which there are."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip.

    Attributes:
      name: 'v5e'; its page is https://cloud.google.com/tpu/docs/v5e.
      flops: bfloat16 operations per second at the peak.
      hbm: bytes of memory. '16 GB' is taken as 16 GiB, as libtpu does.
      dimensions: of the grid of chips.
      cores: in the name of a slice per chip: 'v4-128' counts TensorCores and is 64 chips.
      devices: that jax sees per chip.
    """

    name: str
    flops: float
    hbm: int
    dimensions: int
    cores: int = 1
    devices: int = 1


TPUS = (
    Chip("v3", 123e12, 32 * GIB, 2, cores=2, devices=2),
    Chip("v4", 275e12, 32 * GIB, 3, cores=2),
    Chip("v5e", 197e12, 16 * GIB, 2),
    Chip("v5p", 459e12, 95 * GIB, 3, cores=2),
    Chip("v6e", 918e12, 32 * GIB, 2),
)
# Shapes of the usual slices, as Cloud TPU makes them, by dimensions.
_SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
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
    def options(self) -> dict[str, Any]:
        """What `get_topology_desc` has to be told beside the name."""
        options: dict[str, Any] = {}
        if self.chip.dimensions == 2 and self.chips in (1, 8):  # One virtual machine has them all.
            options["chips_per_host_bounds"] = (*self.shape, 1)
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # Both cores of a chip are one device.
        return options


def parse_topology(text: str) -> Topology:
    """'v5e:8x8' as libtpu names it, or 'v5e-64' as Cloud TPU names what you order.

    Raises:
      TopologyError: it is neither.
    """
    found = re.fullmatch(r"(v\d+\w*?)(?:lite|litepod)?(?::(\d+(?:x\d+)+)|-(\d+))", text.lower())
    chips = {chip.name: chip for chip in TPUS}
    chips |= {"v5": chips["v5e"], "v6": chips["v6e"]}  # Before 'lite' and 'litepod'.
    if not found or found[1] not in chips:
        known = ", ".join(chip.name for chip in TPUS)
        raise TopologyError(
            f"--topology={text} isn't like 'v5e:8x8' or 'v5e-64'; there are {known}"
        )
    chip = chips[found[1]]
    usual = [Topology(chip, _sides(shape)) for shape in _SHAPES[chip.dimensions]]
    if found[3]:
        named = {f"{chip.name}-{slice_.chips * chip.cores}": slice_ for slice_ in usual}
        name = f"{chip.name}-{int(found[3])}"
        if name not in named:
            known = ", ".join(named)
            raise TopologyError(f"there is no usual slice {text}; there are {known}, and any shape")
        return named[name]
    topology = Topology(chip, _sides(found[2]))
    if len(topology.shape) != chip.dimensions:
        raise TopologyError(
            f"--topology={text}: {chip.name} chips lie in {chip.dimensions} dimensions, such as "
            f"{usual[-1].name}"
        )
    return topology


def _sides(shape: str) -> tuple[int, ...]:
    return tuple(int(side) for side in shape.split("x"))
