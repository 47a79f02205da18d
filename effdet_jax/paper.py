"""The paper's tables beside our own counts: what is printed is data, and what we count is counted.

Tan et al., arXiv:1911.09070: version 7 (2020), and version 1 (2019) where said. docs/paper.md has
all of them, and why a row differs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from effdet_jax.model.counts import summarize
from effdet_jax.spec import equations, model_spec

Row = dict[str, Any]
Cost = tuple[int, int, int]  # Parameters, multiply-adds, and what TensorFlow's profiler counts.

_UNITS = {"M": 1e6, "B": 1e9}


@dataclasses.dataclass(frozen=True)
class Printed:
    """A row of a table as it is printed, and the model that it is of.

    Attributes:
      name: the row's, as printed.
      parameters, flops: '3.9M' and '2.5B', or the ratios '0.88' and '0.68'.
      model: name of a `ModelSpec`.
      changes: fields of it that differ.
    """

    name: str
    parameters: str
    flops: str
    model: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Table 1: input size, backbone, BiFPN channels and layers, layers of the heads.
TABLE_1 = {
    "efficientdet-d0": (512, "efficientnet-b0", 64, 3, 3),
    "efficientdet-d1": (640, "efficientnet-b1", 88, 4, 3),
    "efficientdet-d2": (768, "efficientnet-b2", 112, 5, 3),
    "efficientdet-d3": (896, "efficientnet-b3", 160, 6, 4),
    "efficientdet-d4": (1024, "efficientnet-b4", 224, 7, 4),
    "efficientdet-d5": (1280, "efficientnet-b5", 288, 7, 4),
    "efficientdet-d6": (1280, "efficientnet-b6", 384, 8, 5),
    "efficientdet-d7": (1536, "efficientnet-b6", 384, 8, 5),
    "efficientdet-d7x": (1536, "efficientnet-b7", 384, 8, 5),
}

# Table 2, but for AmoebaNet, which isn't here.
TABLE_2 = (
    Printed("EfficientDet-D0 (512)", "3.9M", "2.5B", "efficientdet-d0"),
    Printed("EfficientDet-D1 (640)", "6.6M", "6.1B", "efficientdet-d1"),
    Printed("EfficientDet-D2 (768)", "8.1M", "11B", "efficientdet-d2"),
    Printed("EfficientDet-D3 (896)", "12M", "25B", "efficientdet-d3"),
    Printed("EfficientDet-D4 (1024)", "21M", "55B", "efficientdet-d4"),
    Printed("EfficientDet-D5 (1280)", "34M", "135B", "efficientdet-d5"),
    Printed("EfficientDet-D6 (1280)", "52M", "226B", "efficientdet-d6"),
    Printed("EfficientDet-D7 (1536)", "52M", "325B", "efficientdet-d7"),
    Printed("EfficientDet-D7x (1536)", "77M", "410B", "efficientdet-d7x"),
    Printed("RetinaNet-R50 (640)", "34M", "97B", "retinanet-r50"),
    Printed("RetinaNet-R101 (640)", "53M", "127B", "retinanet-r101"),
    Printed("R50 + NAS-FPN (1024)", "60M", "360B", "nasfpn-r50", {"image_size": (1024, 1024)}),
    Printed("R50 + NAS-FPN (1280)", "60M", "563B", "nasfpn-r50", {"image_size": (1280, 1280)}),
    Printed("R50 + NAS-FPN (1280@384)", "104M", "1043B", "nasfpn-r50-384"),
)

# Version 1 had 2 + φ cells, not 3 + φ: its D3 is the one of tables 4 and 5.
_D3_OF_V1 = {"pyramid_cells": 5}

TABLE_4 = (
    Printed("ResNet-50 + FPN", "34M", "97B", "retinanet-r50"),
    Printed(
        "B3 + FPN",
        "21M",
        "75B",
        "retinanet-r50",
        {"backbone": "efficientnet-b3", "activation": "swish"},
    ),
    Printed("B3 + BiFPN", "12M", "24B", "efficientdet-d3", _D3_OF_V1),
)

# Ratios to the second row. Two top-down passes count as one that goes down and up.
TABLE_5 = tuple(
    Printed(name, parameters, flops, "efficientdet-d3", {**_D3_OF_V1, **changes})
    for name, parameters, flops, changes in (
        (
            "Repeated top-down FPN",
            "1.00",
            "1.00",
            {"pyramid": "fpn", "fusion": "sum", "pyramid_cells": 10},
        ),
        ("Repeated FPN + PANet", "1.00", "1.00", {"pyramid": "panet", "fusion": "sum"}),
        ("NAS-FPN", "0.71", "0.72", {"pyramid": "nasfpn"}),
        (
            "Fully-connected FPN",
            "1.24",
            "1.21",
            {"pyramid": "fully_connected", "fusion": "sum", "pyramid_cells": 10},
        ),
        ("BiFPN (w/o weighted)", "0.88", "0.67", {"fusion": "sum"}),
        ("BiFPN (w/ weighted)", "0.88", "0.68", {}),
    )
)

# Figure 6: what each curve scales, from D0 on, as far as table 1 does.
FIGURE_6 = {
    "scale by image size": [{"image_size": (512 + 128 * phi,) * 2} for phi in range(7)],
    "scale by #channels": [
        {"pyramid_width": TABLE_1[f"efficientdet-d{phi}"][2]} for phi in range(7)
    ],
    "scale by #BiFPN layers": [
        {"pyramid_cells": TABLE_1[f"efficientdet-d{phi}"][3]} for phi in range(7)
    ],
    "scale by #box/class layers": [
        {"head_depth": TABLE_1[f"efficientdet-d{phi}"][4]} for phi in range(7)
    ],
}


_COUNTS = ("parameters", "multiply_adds", "profiled")


def rounds_to(count: float, printed: str) -> bool:
    """Whether `count`, rounded to the digits of '3.9M', '25B' or '0.88', is what is printed."""
    unit = _UNITS.get(printed[-1], 1.0)
    digits = printed.rstrip("".join(_UNITS))
    step = 10.0 ** -len(digits.partition(".")[2])
    return abs(count / unit - float(digits)) <= step / 2


def difference(count: float, printed: str) -> float:
    """By how much `count` is above what is printed, as a share of that."""
    unit = _UNITS.get(printed[-1], 1.0)
    return count / unit / float(printed.rstrip("".join(_UNITS))) - 1


def cost(model: str, part: str = "total", **changes: Any) -> Cost:
    """Cost of a part of a model, `changes` being fields of its spec."""
    summary = _summary(model, tuple(sorted(changes.items())))
    return tuple(summary[what][part] for what in _COUNTS)


@functools.cache  # Tables share models.
def _summary(model: str, changes: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return summarize(model_spec(model, **dict(changes)))


def table_1() -> list[Row]:
    """What the released models are, what is printed, and what the equations alone would give."""
    rows = []
    for name, printed in TABLE_1.items():
        spec = model_spec(name)
        fields = ("image_size", "backbone", "pyramid_width", "pyramid_cells", "head_depth")
        ours = [getattr(spec, field) for field in fields]
        phi = name.removeprefix("efficientdet-d")
        ruled = equations(float(phi)) if phi.isdigit() else None
        columns = ("size", "backbone", "channels", "layers", "head layers")
        row: Row = {"name": name, **dict(zip(columns, [ours[0][0], *ours[1:]]))}
        row["as printed"] = [row[column] for column in columns] == list(printed)
        row["equations differ"] = (
            {c: _side(ruled[f]) for c, f in zip(columns, fields) if _side(ruled[f]) != row[c]}
            if ruled
            else {}
        )
        rows.append(row)
    return rows


def _side(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def costs(table: Sequence[Printed]) -> list[Row]:
    """Cost of whole models, as tables 2 and 4 have it."""
    return [_row(printed, cost(printed.model, **printed.changes)) for printed in table]


def table_5() -> list[Row]:
    """Cost of the pyramids alone, as ratios to FPN + PANet."""
    counted = [cost(row.model, "pyramid", **row.changes) for row in TABLE_5]
    base = counted[1]
    rows = []
    for printed, costs_ in zip(TABLE_5, counted):
        ratios = tuple(count / of for count, of in zip(costs_, base))
        row = _row(printed, ratios)
        row["counts"] = dict(zip(_COUNTS, costs_))
        rows.append(row)
    return rows


def _row(printed: Printed, counts: Sequence[float]) -> Row:
    """Counts beside what is printed; `rounds` and `difference` are of each count."""
    named = dict(zip(_COUNTS, counts))
    paper = {"parameters": printed.parameters, "flops": printed.flops}
    text = {"parameters": paper["parameters"], **dict.fromkeys(list(named)[1:], paper["flops"])}
    return {
        "name": printed.name,
        **named,
        "paper": paper,
        "rounds": {what: rounds_to(count, text[what]) for what, count in named.items()},
        "difference": {what: difference(count, text[what]) for what, count in named.items()},
    }


def figure_6() -> list[Row]:
    """Cost of every point: compound up to D4, where the figure's axis ends, and one thing at a time."""
    rows = [_point("compound scaling", phi, f"efficientdet-d{phi}", {}) for phi in range(5)]
    for name, points in FIGURE_6.items():
        rows += [
            _point(name, phi, "efficientdet-d0", changes) for phi, changes in enumerate(points)
        ]
    return rows


def _point(name: str, phi: int, model: str, changes: Mapping[str, Any]) -> Row:
    counts = cost(model, **changes)
    return {
        "name": name,
        "phi": phi,
        **dict(zip(_COUNTS, counts)),
    }


# Name → its rows.
TABLES: dict[str, Callable[[], list[Row]]] = {
    "1": table_1,
    "2": functools.partial(costs, TABLE_2),
    "4": functools.partial(costs, TABLE_4),
    "5": table_5,
    "fig6": figure_6,
}


def markdown(name: str, rows: Sequence[Row]) -> list[str]:
    """Rows of a table as lines of Markdown; a count that doesn't round to the print has its distance."""
    header, cells = {"1": _cells_1, "5": _cells_5, "fig6": _cells_6}.get(name, _cells)(rows)
    table = [header, *cells]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in table
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


Cells = tuple[list[str], list[list[str]]]


def _cells(rows: Sequence[Row]) -> Cells:
    header = ["model", "parameters", "paper", "multiply-adds", "profiler", "paper"]
    return header, [
        [
            row["name"],
            f"{row['parameters']:,}{_distance(row, 'parameters')}",
            row["paper"]["parameters"],
            f"{row['multiply_adds'] / 1e9:.2f}B{_distance(row, 'multiply_adds')}",
            f"{row['profiled'] / 1e9:.2f}B{_distance(row, 'profiled')}",
            row["paper"]["flops"],
        ]
        for row in rows
    ]


def _distance(row: Row, what: str) -> str:
    return "" if row["rounds"][what] else f" ({row['difference'][what]:+.1%})"


def _cells_1(rows: Sequence[Row]) -> Cells:
    columns = ["name", "size", "backbone", "channels", "layers", "head layers"]
    return [*columns, "as printed", "the equations alone"], [
        [
            *(str(row[column]) for column in columns),
            "yes" if row["as printed"] else "no",
            ", ".join(f"{column} {value}" for column, value in row["equations differ"].items()),
        ]
        for row in rows
    ]


def _cells_5(rows: Sequence[Row]) -> Cells:
    header = ["pyramid", "parameters", "ratio", "paper", "multiply-adds", "ratio"]
    return [*header, "profiler", "ratio", "paper"], [
        [
            row["name"],
            f"{row['counts']['parameters']:,}",
            f"{row['parameters']:.3f}{_distance(row, 'parameters')}",
            row["paper"]["parameters"],
            f"{row['counts']['multiply_adds'] / 1e9:.3f}B",
            f"{row['multiply_adds']:.3f}{_distance(row, 'multiply_adds')}",
            f"{row['counts']['profiled'] / 1e9:.3f}B",
            f"{row['profiled']:.3f}{_distance(row, 'profiled')}",
            row["paper"]["flops"],
        ]
        for row in rows
    ]


def _cells_6(rows: Sequence[Row]) -> Cells:
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = {(row["name"], row["phi"]): f"{row['multiply_adds'] / 1e9:.2f}B" for row in rows}
    return ["φ", *names], [
        [str(phi), *(found.get((name, phi), "") for name in names)]
        for phi in sorted({row["phi"] for row in rows})
    ]
