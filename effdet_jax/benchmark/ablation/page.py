"""What a comparison found, as Markdown and as a page with charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from effdet_jax.benchmark.ablation.comparison import Row, verdict
from effdet_jax.benchmark.ablation.weights import Weights
from effdet_jax.report.charts import dot_chart, line_chart
from effdet_jax.report.page import (
    Cell,
    amount,
    card,
    chart,
    charts_hint,
    escape,
    number,
    table,
    write_page,
)

HEADINGS = ("entry", "AP", "per seed", "difference", "per seed", "parameters", "multiply-adds")
History = Mapping[int, Weights]


def cells(rows: Sequence[Row], costs: Mapping[str, Mapping[str, int]]) -> list[list[Cell]]:
    """The table of a group, a row per entry below `HEADINGS`.

    Args:
      costs: {entry: {'parameters', 'multiply_adds'}}.
    """
    return [
        [
            Cell(row.name),
            Cell(number(row.mean) + (f" ± {row.spread:.3f}" if row.spread is not None else "")),
            Cell(", ".join(number(value) for value in row.values)),
            Cell(f"{row.difference:+.3f}" if row.differences else "–"),
            Cell(", ".join(f"{value:+.3f}" for value in row.differences) or "–"),
            amount(costs[row.name]["parameters"]),
            amount(costs[row.name]["multiply_adds"]),
        ]
        for row in rows
    ]


def markdown(
    title: str,
    groups: Mapping[str, Sequence[Row]],
    costs: Mapping[str, Mapping[str, int]],
    histories: Mapping[str, History],
) -> str:
    """The tables as text. ± is the standard deviation over seeds."""
    lines = [title]
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", *_markdown_rows(HEADINGS, cells(rows, costs))]
        lines += ["", verdict(rows)]
    if histories:
        lines += ["", "## fusion weights at the end", ""]
        lines += _markdown_rows(["node", "input", *histories], _last_weights(histories))
    return "\n".join(lines) + "\n"


def _markdown_rows(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *([cell.text for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _last_weights(histories: Mapping[str, History]) -> list[list[Cell]]:
    """A row per node and input: its weight in the last checkpoint of each fusion."""
    ends = {name: history[max(history)] for name, history in histories.items()}
    first = next(iter(ends.values()))
    return [
        [Cell(node), Cell(name), *(Cell(number(end[node][name])) for end in ends.values())]
        for node, inputs in first.items()
        for name in inputs
    ]


def write_ablation_page(
    path: str,
    title: str,
    groups: Mapping[str, Sequence[Row]],
    costs: Mapping[str, Mapping[str, int]],
    histories: Mapping[str, History],
):
    """Writes the page; one that exists is replaced. Without the libraries it has tables only."""
    sections = {group: _group(rows, costs) for group, rows in groups.items()}
    if histories:
        sections["Fusion weights"] = _weights(histories)
    write_page(path, "Pyramids and fusions", f"<p>{escape(title)}</p>{charts_hint()}", sections)


def _group(rows: Sequence[Row], costs: Mapping[str, Mapping[str, int]]) -> str:
    values = {row.name: row.values for row in rows}
    dots = chart("AP", "A point per seed, a stroke at their mean.", dot_chart(values, "AP"))
    return dots + card("In numbers", table(HEADINGS, cells(rows, costs)), verdict(rows))


def _weights(histories: Mapping[str, History]) -> str:
    """A chart per node with a line per input and fusion, and the last weights as a table."""
    nodes: dict[str, dict[str, Any]] = {}
    for fusion, history in histories.items():
        for node, inputs in history[max(history)].items():
            for name in inputs:
                line = list(history), [weights[node][name] for weights in history.values()]
                nodes.setdefault(node, {})[f"{name}, {fusion}"] = line
    charts = [
        chart(node, "", line_chart(lines, "step", "normalised weight", share=True, height=180))
        for node, lines in nodes.items()
    ]
    last = table(["node", "input", *histories], _last_weights(histories))
    note = "Normalised, averaged over the last steps, of the first seed. At step 0 all are equal."
    return "".join(charts) + card("At the end", last, note)
