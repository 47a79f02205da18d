"""What a compiler says of a program: the memory it takes on each device."""

import dataclasses
import re

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """A train step as compiled, or as refused.

    Attributes:
      peak: bytes of memory per device at the peak, arguments included, machine code not.
      limit: bytes per device that the compiler has to give, 0 if it didn't say.
      seconds: it took to compile.
      error: why there is no program, '' if there is.
    """

    peak: int
    limit: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def fits(self) -> bool:
        return not self.error


def reported_peak(memory_report: str) -> int:
    """Bytes of main memory in the report that XLA writes once buffers are assigned.

    The report lists buffers by memory space; number 0 is the main memory.
    """
    return int(re.search(r"\(color=0\)\s+Total bytes: (\d+)", memory_report)[1])


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
