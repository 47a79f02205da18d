"""Reads the text of an optimised HLO module: what devices exchange, what goes through memory."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
# dtype[sides]{minor to major:tiles and memory space}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
_WIDTHS = {"pred": 1.0, "bf16": 2.0}
_COLLECTIVE = re.compile(rf"^(.+?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_OPERATION = re.compile(r"(?<=[\s)}])([a-z][\w-]*)\(([^()]*)\)")
_ON_CHIP = re.compile(r"S\([13]\)")  # VMEM of v5 and later, CMEM of v4.
# They only name what others make.
_FREE = {
    "bitcast",
    "constant",
    "get-tuple-element",
    "parameter",
    "tuple",
    "while",
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All exchanges of one kind in groups of one size, per step.

    Attributes:
      kind: one of `COLLECTIVES`.
      group: devices that exchange with each other, 0 for all.
      count: how many, those in loops as often as they run.
      bytes: of the whole arrays, not of what the algorithm sends over the links.
      largest: bytes of the largest single one.
      looped: how many of them are in loops of an unknown number of rounds, counted once each.
    """

    kind: str
    group: int
    count: int
    bytes: int
    largest: int
    looped: int = 0


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
        total = sums.setdefault((kind, group), [0, 0, 0, 0])
        total[0] += max(times, 1)
        total[1] += size * max(times, 1)
        total[2] = max(total[2], size)
        total[3] += times == 0
    rows = [Collective(*key, *total) for key, total in sums.items()]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _instructions(text: str, *, names: bool = False) -> Iterator[tuple[str, str]]:
    """(computation, what stands right of '=', or 'name = …') for each instruction."""
    computation = ""
    for line in text.splitlines():
        if line[:1] not in ("", " ", "}"):
            computation = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
        elif " = " in line:
            line = line.strip().removeprefix("ROOT ").lstrip("%")
            yield computation, line if names else line.split(" = ", 1)[1]


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


def memory_traffic(text: str) -> float:
    """Bytes that a step's operations read from and write to a device's main memory.

    Operands and results of every operation, whole, as they are padded to tiles; what the compiler
    keeps in on-chip memory (`S(1)` in a layout, say) is left out, and what is fused never gets there.
    """
    rounds, bodies = _rounds(text), set(re.findall(r"\bbody=%?([\w.-]+)", text))
    entry = re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)
    bodies.add(entry[1] if entry else "")
    arrays: dict[str, list[tuple[float, bool]]] = {}
    total = 0.0
    for computation, line in _instructions(text, names=True):
        name, _, definition = line.partition(" = ")
        found = _OPERATION.search(definition)
        if computation not in bodies or not found:
            continue
        results = arrays[name] = [
            _tiled(*array) for array in _ARRAY.findall(definition[: found.start()])
        ]
        operation, operands = found[1], re.findall(r"%([\w.-]+)", found[2])
        if operation in _FREE or operation.endswith("-done"):
            continue
        reads = [array for operand in operands for array in arrays.get(operand, ())]
        if operation in ("async-start", "copy-start", "slice-start"):
            # (copy, source, context), ((source), slice, context): as much is read as written.
            results = results[:1] if operation == "copy-start" else results[len(reads) :][:1]
            reads = [(results[0][0], on_chip) for _, on_chip in reads[:1]]
        size = sum(size for size, on_chip in reads + results if not on_chip)
        total += size * max(rounds(computation), 1)
    return total


def estimated_cycles(text: str) -> int:
    """What the TPU compiler expects its operations to take, one after the other; 0 if not said."""
    entry = text[text.rfind("\nENTRY ") :]
    return sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', entry))


def _tiled(dtype: str, sides: str, order: str, layout: str) -> tuple[float, bool]:
    """(bytes with the padding that a tiled layout adds, whether in on-chip memory)."""
    shape = [int(side) for side in sides.split(",") if side]
    tile = re.match(r"T\(([\d,]+)\)", layout)
    if tile and order:
        # The tile's last side covers the minor-most axis, which `order` names first.
        minor = (int(axis) for axis in order.split(","))
        for axis, side in zip(minor, reversed(tile[1].split(","))):
            shape[axis] = -(-shape[axis] // int(side)) * int(side)
    return math.prod(shape) * _width(dtype), bool(_ON_CHIP.search(layout))


def _payload(shapes: str, kind: str, start: bool) -> int:
    """Bytes of the arrays in a result type; of a started gather or permute the results' alone."""
    sizes = [
        math.prod(int(side) for side in sides.split(",") if side) * _width(dtype)
        for dtype, sides, _, _ in _ARRAY.findall(shapes)
        if sides or dtype != "u32"  # Contexts of a started permute.
    ]
    if start and kind in ("all-gather", "collective-permute"):
        sizes = sizes[len(sizes) // 2 :]
    return int(sum(sizes))


def _width(dtype: str) -> float:
    return _WIDTHS.get(dtype) or int(re.match(r"\w(\d+)", dtype)[1]) / 8


def _group_size(line: str) -> int:
    """Devices of a group, 0 where it isn't given: all.

    Groups are written `{{0,1},{2,3}}`, `[4,2]<=[8]` or `mesh['a'=4,'b'=2] {'b'}`.
    """
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    return 0
