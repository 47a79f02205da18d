"""Pyramid graphs as node lists: a pyramid differs from another by data, not by code."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence


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
    """Bidirectional pyramid (arXiv:1911.09070, figure 2): top-down, then bottom-up.

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
    return _there_and_back(range(max_level, min_level - 1, -1), "td", "out")


def _there_and_back(levels: Sequence[int], there: str, back: str) -> tuple[Node, ...]:
    """Nodes along `levels` and back again; on the way back a node takes all there is of its level.

    The first and the last of `levels` have one node each, called as on the way back.
    """
    seen = {level: [f"P{level}_in"] for level in levels}
    nodes = []

    def add(level: int, suffix: str, inputs: tuple[str, ...]):
        nodes.append(Node(f"P{level}_{suffix}", level, inputs))
        seen[level].append(nodes[-1].name)

    for before, level in itertools.pairwise(levels):
        suffix = back if level == levels[-1] else there
        add(level, suffix, (seen[level][-1], seen[before][-1]))
    for before, level in itertools.pairwise(reversed(levels)):
        add(level, back, (*seen[level], seen[before][-1]))
    return tuple(nodes)


def fpn(min_level: int, max_level: int) -> tuple[Node, ...]:
    """Top-down pyramid (arXiv:1911.09070, figure 2a): what is passed down went through the node.

        P7_in ──► P7_out
                    │
                    ▼
        P6_in ──► P6_out
                    ┆
                    ▼
        P3_in ──► P3_out

    RetinaNet's FPN is another: it sums first, and convolves each level afterwards.
    """
    return _top_down(min_level, max_level, "out")


def _top_down(min_level: int, max_level: int, suffix: str) -> tuple[Node, ...]:
    nodes = [Node(f"P{max_level}_{suffix}", max_level, (f"P{max_level}_in",))]
    for level in range(max_level - 1, min_level - 1, -1):
        nodes.append(Node(f"P{level}_{suffix}", level, (f"P{level}_in", nodes[-1].name)))
    return tuple(nodes)


def panet(min_level: int, max_level: int) -> tuple[Node, ...]:
    """FPN, then bottom-up (arXiv:1803.01534; its layout, with pooling for strided convolutions).

        P7_in ──► P7_td ──► P7_out
                    │         ▲
                    ▼         │
        P6_in ──► P6_td ──► P6_out
                    ┆         ┆
                    ▼         │
        P3_in ──► P3_td ──► P3_out

    Nodes of one input, P7_td and P3_out, have a convolution as any other.
    """
    nodes = list(_top_down(min_level, max_level, "td"))
    nodes.append(Node(f"P{min_level}_out", min_level, (f"P{min_level}_td",)))
    for level in range(min_level + 1, max_level + 1):
        nodes.append(Node(f"P{level}_out", level, (f"P{level}_td", nodes[-1].name)))
    return tuple(nodes)


def simple_panet(min_level: int, max_level: int) -> tuple[Node, ...]:
    """PANet without its nodes of one input (arXiv:1911.09070v1, figure 2e); BiFPN without skips.

    P7_in ──────────────► P7_out
      │                     ▲
      ▼                     │
    P6_in ──► P6_td ────► P6_out
                │           ▲
                ▼           │
    P5_in ──► P5_td ────► P5_out
                ┆           ┆
    P3_in ──────────────► P3_out
    """
    return tuple(
        dataclasses.replace(node, inputs=node.inputs[-2:]) for node in bifpn(min_level, max_level)
    )


def fully_connected(min_level: int, max_level: int) -> tuple[Node, ...]:
    """Every output takes every input (arXiv:1911.09070v1, figure 2d), resized over many levels.

    P7_in ──┬─┬─ ┄ ─┬──► P7_out
    P6_in ──┼─┼─ ┄ ─┼──► P6_out
      ┆     ┆ ┆     ┆      ┆
    P3_in ──┴─┴─ ┄ ─┴──► P3_out
    """
    levels = range(min_level, max_level + 1)
    inputs = tuple(f"P{level}_in" for level in levels)
    return tuple(Node(f"P{level}_out", level, inputs) for level in levels)


def qufpn(min_level: int, max_level: int) -> tuple[Node, ...]:
    """Quad-FPN (ieeexplore.ieee.org/document/9225379): BiFPN, and BiFPN upside down, added.

        P7_in ──────────► P7_td_bu ──► P7_out ◄── P7_bu_td ◄── P7_in
          │                 ▲                       │  ▲
          ▼                 │                       ▼  │
        P6_in ► P6_td ──► P6_td_bu ──► P6_out ◄── P6_bu_td ◄── P6_bu ◄ P6_in
                  ┆         ┆                       ┆            ┆
        P3_in ──────────► P3_td_bu ──► P3_out ◄── P3_bu_td ◄────────── P3_in

    Each half has the skips of a BiFPN. The halves are added by fast fusion, whatever the spec's is.
    """
    levels = range(min_level, max_level + 1)
    return (
        *_there_and_back(levels[::-1], "td", "td_bu"),
        *_there_and_back(levels, "bu", "bu_td"),
        *(Node(f"P{n}_out", n, (f"P{n}_td_bu", f"P{n}_bu_td"), "fast") for n in levels),
    )


def nasfpn(min_level: int, max_level: int) -> tuple[Node, ...]:
    """The pyramid that a search found for levels 3 to 7 (arXiv:1904.07392): seven merges.

        P7_in ───────────────────────────────────► P7_out ──┐
                                                   ▲    ▲   ▼
        P6_in ──┐                                  │    │  P6_out
                │                                  │    │   ▲
        P5_in ──│─────────────────────► P5_out ────┘────│───┘
                │                        ▲  ▲           │
                ▼                        │  │           │
        P4_in ► P4_a ► P4_b ────► P4_out ┘  │           │
          └────────────► │ └────────▲───────│───────────┘
                         ▼          │       │
        P3_in ───────► P3_out ──────┴───────┘

    Attention has the coarser input first. P5_in and P7_in, which no merge takes, are added to the
    output of their level.

    Raises:
      ValueError: other levels, for which there is no such graph.
    """
    if (min_level, max_level) != (3, 7):
        raise ValueError(
            f"NAS-FPN was searched for levels 3 to 7 alone; min_level is {min_level}, max_level "
            f"{max_level}"
        )
    return (
        Node("P4_a", 4, ("P6_in", "P4_in"), "attention"),
        Node("P4_b", 4, ("P4_in", "P4_a"), "sum"),
        Node("P3_out", 3, ("P3_in", "P4_b"), "sum"),
        Node("P4_out", 4, ("P4_b", "P3_out"), "sum"),
        Node("P5_out", 5, ("P4_out", "P3_out", "P5_in"), "attention"),
        Node("P7_out", 7, ("P5_out", "P4_b", "P7_in"), "attention"),
        Node("P6_out", 6, ("P7_out", "P5_out"), "attention"),
    )


# Name → (min_level, max_level) → nodes of one cell, inputs before consumers. The last node of a
# level is that level's output.
PYRAMIDS: dict[str, Callable[[int, int], tuple[Node, ...]]] = {
    "bifpn": bifpn,
    "fpn": fpn,
    "panet": panet,
    "simple_panet": simple_panet,
    "fully_connected": fully_connected,
    "qufpn": qufpn,
    "nasfpn": nasfpn,
}
