"""Charts for pages: Altair says what to draw, and the browser draws it with the scripts in the page.

Both come with `pip install 'effdet_jax[report]'`. Without them pages have tables only.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INSTALL = "pip install 'effdet_jax[report]'"
# Apart from each other for most colour-blind eyes, and from white and black ground alike.
COLOURS = ("#3b82d6", "#e07b00", "#1f9e6e", "#c85fb0", "#d9485f", "#14a3b8", "#a5744a", "#7d8590")
_MOST_POINTS = 400  # Of a line: more are finer than a screen.
_STEPS = {"format": "~s", "tickCount": 6, "tickMinStep": 1}
_MOST_NUMBERS = 12  # Rows of a heat map whose cells have room for their numbers.

Line = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]  # x, and y.


def available() -> bool:
    """Whether the libraries for charts are installed."""
    return all(importlib.util.find_spec(name) for name in ("altair", "vl_convert"))


def library() -> str:
    """The scripts that draw charts: Vega, Vega-Lite and Vega-Embed, about 0.9 MB, once per page."""
    import altair as alt
    import vl_convert

    major, minor, *_ = alt.VEGALITE_VERSION.split(".")  # That Altair writes for.
    return vl_convert.javascript_bundle(vl_version=f"{major}.{minor}")


def line_chart(
    lines: Mapping[str, Line],
    x: str,
    y: str,
    *,
    share: bool = False,
    log: bool = False,
    one_x: bool = False,
    highlight: str = "",
    height: int = 260,
) -> dict[str, Any] | None:
    """Named lines. Up to eight have colours; of more, one is chosen from a list.

    Args:
      lines: {name: (x, y)}; points that aren't finite are left out.
      x, y: titles of the axes.
      share: y runs from 0 to 1.
      log: y is logarithmic, if all of it is positive.
      one_x: x runs from 0 to 1, too.
      highlight: name of a line to draw bold.

    Returns:
      A Vega-Lite specification; None without a point or without the libraries.
    """
    rows = [row for row in map(_row, lines, lines.values()) if row["x"]]
    if not rows or not available():
        return None
    import altair as alt

    positive = min(min(row["y"]) for row in rows) > 0
    axes = {
        "x": alt.X(
            "x:Q",
            title=x,
            scale=alt.Scale(domain=[0, 1]) if one_x else alt.Scale(nice=False),
            axis=alt.Axis(grid=False, **({"format": ".1f"} if one_x else _STEPS)),
        ),
        "y": alt.Y(
            "y:Q", title=y, scale=_y_scale(share, log and positive), axis=alt.Axis(tickCount=5)
        ),
        "tooltip": [
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("x:Q", title=x, format=".2f" if one_x else ",~r"),
            alt.Tooltip("y:Q", title=y or "value", format=".4~g"),
        ],
    }
    base = alt.Chart(alt.Data(values=rows)).transform_flatten(["x", "y"])
    base = base.encode(detail="name:N", **axes)
    names = list(lines)  # All of them: a name has the same colour in every chart of a page.
    lines_layer = _few(base, names, highlight) if len(names) <= len(COLOURS) else _many(base, names)
    chart = alt.layer(lines_layer, _nearest(base)).properties(width="container", height=height)
    return chart.to_dict()


def svg(chart: dict[str, Any], width: int = 560) -> str:
    """A chart as a picture, for a file instead of a page."""
    import vl_convert

    return vl_convert.vegalite_to_svg({**chart, "width": width, "background": "white"})


def _y_scale(share: bool, log: bool) -> Any:
    import altair as alt

    if share:
        return alt.Scale(domain=[0, 1])
    return alt.Scale(type="log", nice=False) if log else alt.Undefined


def _nearest(base: Any) -> Any:
    """The point under the pointer, for the tooltip to be of it."""
    import altair as alt

    near = alt.selection_point(
        name="near",
        nearest=True,
        on="pointerover",
        clear="pointerout",
        fields=["x", "name"],
        empty=False,
    )
    points = base.mark_point(size=60, filled=True, color="currentColor")
    seen = alt.condition(near, alt.value(1), alt.value(0))
    return points.encode(opacity=seen).add_params(near)


def _few(base: Any, names: Sequence[str], highlight: str) -> Any:
    """Lines in colours, with a legend."""
    import altair as alt

    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(names), range=list(COLOURS[: len(names)])),
        legend=alt.Legend() if len(names) > 1 else None,
    )
    width = alt.condition(alt.datum.name == highlight, alt.value(3.5), alt.value(2))
    return base.mark_line(point=_is_short(base)).encode(color=colour, strokeWidth=width)


def _many(base: Any, names: Sequence[str]) -> Any:
    """Quiet lines, of which the chosen one stands out."""
    import altair as alt

    chosen = alt.selection_point(
        name="chosen",
        fields=["name"],
        bind={"name": alt.binding_select(options=list(names), name="show ")},
        value=[{"name": names[0]}],
    )
    return (
        base.mark_line()
        .encode(
            color=alt.condition(chosen, alt.value(COLOURS[0]), alt.value("currentColor")),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.13)),
            strokeWidth=alt.condition(chosen, alt.value(3.5), alt.value(1)),
        )
        .add_params(chosen)
    )


def _is_short(base: Any) -> bool:
    """Whether its lines have so few points that each is to be seen."""
    return all(len(row["x"]) <= 40 for row in base.data.values)


def _row(name: str, line: Line) -> dict[str, Any]:
    """A line without points that can't be drawn, and with no more of them than can be seen."""
    x, y = (np.asarray(values, np.float64) for values in line)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    groups = np.arange(len(x)) // max(1, math.ceil(len(x) / _MOST_POINTS))
    size = np.maximum(np.bincount(groups), 1)
    x, y = (np.bincount(groups, values) / size for values in (x, y))
    return {"name": name, "x": _rounded(x), "y": _rounded(y)}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def heat_map(counts: np.ndarray, names: Sequence[str]) -> dict[str, Any] | None:
    """[K, K] counts, rows truth and columns predicted, each cell shaded by its share of the row.

    Returns:
      A Vega-Lite specification; None without a count or without the libraries.
    """
    if not available() or not counts.any():
        return None
    import altair as alt

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        {"t": names[i], "p": names[j], "n": int(counts[i, j]), "s": round(float(shares[i, j]), 4)}
        for i, j in np.argwhere(counts)
    ]
    few = len(names) <= _MOST_NUMBERS
    plain = {
        "grid": False,
        "ticks": False,
        "domain": False,
        "labelOverlap": not few,
        "labelLimit": 110,
    }
    across, down = alt.Axis(**plain, labelAngle=-30 if few else -90), alt.Axis(**plain)
    scale = alt.Scale(domain=list(names))
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("p:N", title="predicted", scale=scale, axis=across),
        y=alt.Y("t:N", title="truth", scale=scale, axis=down),
        tooltip=[
            alt.Tooltip("t:N", title="truth"),
            alt.Tooltip("p:N", title="predicted"),
            alt.Tooltip("n:Q", title="boxes", format=","),
            alt.Tooltip("s:Q", title="of this row", format=".1%"),
        ],
    )
    cells = base.mark_rect(color=COLOURS[0]).encode(
        fillOpacity=alt.FillOpacity(
            "s:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 0.75]), legend=None
        )
    )
    if few:
        numbers = base.mark_text(color="currentColor").encode(text=alt.Text("n:Q", format=","))
        cells = alt.layer(cells, numbers)
    side = max(240, min(640, 44 * len(names)))
    return cells.properties(width="container", height=side).to_dict()


def dot_chart(values: Mapping[str, Sequence[float]], x: str) -> dict[str, Any] | None:
    """A row of points per name, in order, and a stroke at their mean.

    Args:
      values: {name: values}.
      x: title of the axis.

    Returns:
      A Vega-Lite specification; None without a value or without the libraries.
    """
    rows = [{"name": name, "x": float(f"{x:.5g}")} for name, row in values.items() for x in row]
    if not rows or not available():
        return None
    import altair as alt

    base = alt.Chart(alt.Data(values=rows))
    names = alt.Y("name:N", title=None, sort=list(values))
    scale = alt.Scale(zero=False, padding=12)
    points = base.mark_point(size=50, filled=True, color=COLOURS[0]).encode(
        x=alt.X("x:Q", title=x, scale=scale),
        y=names,
        tooltip=[
            alt.Tooltip("name:N", title=" "),
            alt.Tooltip("x:Q", title=x, format=".4~g"),
        ],
    )
    means = base.mark_tick(thickness=2, color="currentColor").encode(
        x=alt.X("mean(x):Q", title=x, scale=scale), y=names
    )
    return alt.layer(points, means).properties(width="container", height=alt.Step(24)).to_dict()
