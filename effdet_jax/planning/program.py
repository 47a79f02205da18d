"""What a compiled program says about itself: memory, work, and what its devices exchange."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(rf"^(.+?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_GIVEN_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All exchanges of one kind in groups of one size, per step.

    Attributes:
      kind: one of `COLLECTIVES`.
      group: devices that exchange with each other, 0 for all.
      count: how many, those in loops as often as they run.
      bytes: of the whole arrays, not of what the algorithm sends over the links.
      looped: how many of them are in loops of an unknown number of rounds, counted once each.
    """

    kind: str
    group: int
    count: int
    bytes: int
    looped: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's figures of a step, per device; a program that doesn't fit has a peak alone.

    Attributes:
      peak: bytes of memory that have to be there at once, arguments included.
      arguments: bytes of state and batch.
      limit: bytes that the compiler has to give, 0 if it didn't say.
      flops: it counts; see `report` for why that isn't the model's work.
      traffic: bytes read and written by all operations.
      collectives: what is exchanged.
      seconds: it took to compile.
      error: why there is no program, '' if there is.
    """

    peak: int
    arguments: int = 0
    limit: int = 0
    flops: float = 0.0
    traffic: float = 0.0
    collectives: tuple[Collective, ...] = ()
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
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Program(
        peak=peak_of(memory),
        arguments=memory.argument_size_in_bytes,
        flops=cost.get("flops", 0.0),
        traffic=cost.get("bytes accessed", 0.0),
        collectives=parse_collectives(compiled.as_text()),
    )


def peak_of(memory: Any) -> int:
    """Bytes that a run allocates: arguments, results that don't reuse them, temporaries, code.

    `peak_memory_in_bytes`, where a backend has it, is less: gaps between buffers aren't in it.
    """
    parts = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return max(parts, getattr(memory, "peak_memory_in_bytes", 0))


def out_of_memory(message: str) -> Program | None:
    """The program that a compiler refused for want of memory, None if it failed for other reasons.

    Reads 'Used 19.41G of 15.75G hbm', as libtpu says it.
    """
    found = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    if not found:
        return None
    used, limit = (
        int(float(number) * _GIVEN_UNITS[unit])
        for number, unit in (found.groups()[:2], found.groups()[2:])
    )
    return Program(peak=used, limit=limit, error="out of memory")


def parse_collectives(text: str) -> tuple[Collective, ...]:
    """Collectives in an HLO module's text, by kind and group size; the largest first."""
    sums: dict[tuple[str, int], list[int]] = {}
    rounds = _rounds(text)
    for computation, line in _instructions(text):
        found = _COLLECTIVE.match(line)
        if not found:
            continue
        shapes, kind, start = found.groups()
        group = _group_size(line)
        size = _payload(shapes, kind, bool(start)) * (group or 1 if kind == "reduce-scatter" else 1)
        times = rounds(computation)
        total = sums.setdefault((kind, group), [0, 0, 0])
        total[0] += max(times, 1)
        total[1] += size * max(times, 1)
        total[2] += times == 0
    rows = [Collective(*key, *total) for key, total in sums.items()]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """(computation, what stands right of '=') for each instruction."""
    computation = ""
    for line in text.splitlines():
        if line[:1] not in ("", " ", "}"):
            computation = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
        elif " = " in line:
            yield computation, line.split(" = ", 1)[1]


def _rounds(text: str) -> Callable[[str], int]:
    """computation → how often it runs per step, 0 in a loop of an unknown number of rounds."""
    callers: dict[str, list[tuple[str, int]]] = {}
    for computation, line in _instructions(text):
        known = re.search(r"known_trip_count[^\d]*(\d+)", line)
        trips = int(known[1]) if known else 0
        for how, called in re.findall(r"(calls|to_apply|body|condition)=%?([\w.-]+)", line):
            times = trips if how in ("body", "condition") else 1
            callers.setdefault(called, []).append((computation, times))

    @functools.cache
    def runs(computation: str) -> int:
        return max((runs(caller) * n for caller, n in callers.get(computation, ())), default=1)

    return runs


def _payload(shapes: str, kind: str, start: bool) -> int:
    """Bytes of the arrays in a result type; of a started gather or permute the results' alone."""
    sizes = [
        math.prod(int(side) for side in sides.split(",") if side) * _width(dtype)
        for dtype, sides in _ARRAY.findall(shapes)
        if sides or dtype != "u32"  # Contexts of a started permute.
    ]
    if start and kind in ("all-gather", "collective-permute"):
        sizes = sizes[len(sizes) // 2 :]
    return int(sum(sizes))


def _width(dtype: str) -> float:
    return _BYTES.get(dtype) or int(re.match(r"\w(\d+)", dtype)[1]) / 8


def _group_size(line: str) -> int:
    """Of `replica_groups={{0,1},{2,3}}` or `[4,2]<=[8]`, 0 where it isn't given: all."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    return 0
