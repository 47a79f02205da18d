"""What a compiled program says about itself: memory, work, and what its devices exchange."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from effdet_jax.compilation import peak_memory
from effdet_jax.plan.hlo import Collective, estimated_cycles, memory_traffic, parse_collectives

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's figures of a step, per device; a program that doesn't fit has a peak alone.

    Attributes:
      peak: bytes of memory that it takes, arguments included; its code too, if `complete`.
      limit: bytes that the compiler has to give, 0 if it didn't say.
      traffic: bytes through main memory, see `hlo.memory_traffic`.
      flops: as the compiler counts them, 0 if not `complete`.
      cycles: that the compiler expects, 0 if not `complete` or not said.
      collectives: what is exchanged.
      complete: whether machine code was generated, too; the other figures are known before that.
      seconds: it took to compile.
      error: why there is no program, '' if there is.
    """

    peak: int
    limit: int = 0
    traffic: float = 0.0
    flops: float = 0.0
    cycles: int = 0
    collectives: tuple[Collective, ...] = ()
    complete: bool = True
    seconds: float = 0.0
    error: str = ""

    @property
    def fits(self) -> bool:
        return not self.error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Program":
        collectives = tuple(Collective(**row) for row in fields["collectives"])
        return cls(**{**fields, "collectives": collectives})


def inspect(compiled: Any) -> Program:
    """The figures of a `jax.stages.Compiled`."""
    cost, text = compiled.cost_analysis(), compiled.as_text()
    return Program(
        peak=peak_memory(compiled),
        traffic=memory_traffic(text),
        flops=(cost or {}).get("flops", 0.0),
        cycles=estimated_cycles(text),
        collectives=parse_collectives(text),
    )


def inspect_dump(hlo: str, memory_report: str) -> Program:
    """The figures that are known once buffers are assigned, from what XLA writes out then.

    Args:
      hlo: the module after that.
      memory_report: buffers by memory space; the first, number 0, is the main memory.
    """
    return Program(
        peak=int(re.search(r"\(color=0\)\s+Total bytes: (\d+)", memory_report)[1]),
        traffic=memory_traffic(hlo),
        collectives=parse_collectives(hlo),
        complete=False,
    )


def out_of_memory(message: str) -> Program | None:
    """The program that a compiler refused for want of memory, None if it failed for other reasons.

    Reads what libtpu says: 'Used 19.41G of 15.75G hbm', or '(122.50G) exceeds available HBM
    (15.75G)' where temporaries alone are too much.
    """
    size = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"Used {size} of {size} hbm", message) or re.search(
        rf"\({size}\) exceeds available HBM \({size}\)", message
    )
    if not found:
        return None
    used, limit = (
        int(float(number) * _UNITS[unit])
        for number, unit in (found.groups()[:2], found.groups()[2:])
    )
    return Program(peak=used, limit=limit, error="out of memory")
