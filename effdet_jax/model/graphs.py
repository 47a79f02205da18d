"""Pyramid graphs as node lists: a pyramid differs from another by data, not by code."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Node:
    """One fusion node of a pyramid cell.

    Attributes:
      name: 'P4_td'; also its scope in the parameter tree.
      level: its output stride is 2**level.
      inputs: names of earlier nodes, or of cell inputs ('P3_in'), in the order of their weights.
      merge: one of `merge.MERGES`; '' is the spec's fusion.
    """

    name: str
    level: int
    inputs: tuple[str, ...]
    merge: str = ""


def bifpn(min_level: int, max_level: int) -> tuple[Node, ...]:
    """Bidirectional pyramid (arXiv:1911.09070, figure 3): top-down, then bottom-up.

        P7_in ────────────────────────► P7_out
          │                               ▲
          ▼                               │
        P6_in ──► P6_td ──────────────► P6_out     every Pk_out with a Pk_td
          │         │   (P6_in too)       ▲        also takes Pk_in: the skip
          │         ▼                     │
        P5_in ──► P5_td ──────────────► P5_out
                    ┆                     ┆
        P3_in ────────────────────────► P3_out

    The outputs of a cell are its nodes named 'Pk_out'.
    """
    latest = {level: f"P{level}_in" for level in range(min_level, max_level + 1)}
    seen = {level: [name] for level, name in latest.items()}
    nodes = []

    def add(name: str, level: int, inputs: tuple[str, ...]):
        nodes.append(Node(name, level, inputs))
        latest[level] = name
        seen[level].append(name)

    for level in range(max_level - 1, min_level - 1, -1):
        suffix = "out" if level == min_level else "td"
        add(f"P{level}_{suffix}", level, (latest[level], latest[level + 1]))
    for level in range(min_level + 1, max_level + 1):
        add(f"P{level}_out", level, (*seen[level], latest[level - 1]))
    return tuple(nodes)


# Name → (min_level, max_level) → nodes of one cell, inputs before consumers. The last node of a
# level is that level's output.
PYRAMIDS: dict[str, Callable[[int, int], tuple[Node, ...]]] = {
    "bifpn": bifpn,
}
