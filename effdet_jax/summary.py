"""What a model is made of: parameters, multiply-adds, shapes and anchors, without running it.

python -m effdet_jax.summary --config=configs/d3.py
python -m effdet_jax.summary --table=2            # A table of the paper beside our own counts
python -m effdet_jax.summary --table=fig6 --output=fig6.svg
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from effdet_jax import paper
from effdet_jax.classes import COCO, ClassNames
from effdet_jax.cli import define_config_flag, run
from effdet_jax.config import ConfigError
from effdet_jax.experiment import Experiment
from effdet_jax.files import text_in_place
from effdet_jax.model.counts import summarize
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.report import charts
from effdet_jax.spec import ModelSpec


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=False),
        "table": flags.DEFINE_enum(
            "table", None, list(paper.TABLES), "of the paper, beside our own counts"
        ),
        "output": flags.DEFINE_string("output", "", "of --table=fig6: FILE.svg to draw it in"),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
        "num_classes": flags.DEFINE_integer(
            "num_classes", len(COCO), "K; the data isn't read", lower_bound=1
        ),
    }


def main(
    config: ConfigDict | None,
    as_json: bool,
    num_classes: int,
    table: str | None = None,
    output: str = "",
) -> int:
    if (config is None) == (table is None):
        raise ConfigError(
            "summary is of one model, --config=d3, or of a table of the paper, "
            f"--table={'|'.join(paper.TABLES)}: give one of the two"
        )
    if output and table != "fig6":
        raise ConfigError(f"--output={output}: only --table=fig6 is drawn; redirect text with >")
    if table:
        return _print_table(table, as_json, output)
    class_names = ClassNames.numbered(num_classes)  # Only their number matters here.
    spec = Experiment.from_config(config, class_names=class_names).spec
    summary = summarize(spec)
    print(json.dumps(summary) if as_json else "\n".join(_lines(spec, summary)))
    return 0


def _print_table(name: str, as_json: bool, output: str) -> int:
    if output:  # Before the minute that counting takes.
        _check_output(output)
    rows = paper.TABLES[name]()
    if output:
        with text_in_place(output) as file:
            file.write(_draw(rows))
        print(f"drawn in {output}")
    else:
        print(json.dumps(rows) if as_json else "\n".join(paper.markdown(name, rows)))
    return 0


def _check_output(path: str):
    """Raises ConfigError where nothing can be drawn: another ending, or nothing that draws."""
    if not path.endswith(".svg"):
        raise ConfigError(f"--output={path}: what is drawn is an SVG; give FILE.svg")
    if not charts.available():
        raise ConfigError(f"--output={path} needs Altair and vl-convert: {charts.INSTALL}")


def _draw(rows: Sequence[paper.Row]) -> str:
    """Figure 6's cost axis: what scaling φ steps costs. Its other axis, AP, can't be counted."""
    lines = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        points = [row for row in rows if row["name"] == name]
        lines[name] = (
            [row["multiply_adds"] / 1e9 for row in points],
            [row["phi"] for row in points],
        )
    chart = charts.line_chart(lines, "multiply-adds (billions)", "φ", highlight=next(iter(lines)))
    return charts.svg(chart)


def _lines(spec: ModelSpec, summary: dict[str, Any]) -> list[str]:
    height, width = spec.image_size
    title = (
        f"{spec.name}: {height}×{width}, {spec.num_classes} classes, {spec.backbone}, "
        + _pyramid(spec)
    )
    lines = [
        title,
        f"{'':12s}{'parameters':>14s}{'multiply-adds':>18s}{'profiler':>18s}",
    ]
    for part in summary["parameters"]:
        lines.append(
            f"{part:12s}{summary['parameters'][part]:14,d}{summary['multiply_adds'][part]:18,d}"
            f"{summary['profiled'][part]:18,d}"
        )
    if "class_head" not in summary["activations"]:  # No boxes.
        return lines
    lines.append(f"{'':12s}{'anchors':>14s}   pyramid output     class logits")
    for level in [f"P{level}" for level in spec.levels]:
        pyramid = "×".join(str(side) for side in summary["activations"]["pyramid"][level][1:])
        logits = "×".join(str(side) for side in summary["activations"]["class_head"][level][1:])
        lines.append(f"{level:12s}{summary['anchors'][level]:14,d}   {pyramid:18s} {logits}")
    return [*lines, f"{'total':12s}{summary['anchors']['total']:14,d}"]


def _pyramid(spec: ModelSpec) -> str:
    """'3 × bifpn of 64 channels (fast fusion), heads 3 deep'; only what the model has."""
    if not spec.pyramid_cells:
        return f"{spec.pyramid_width} channels before pooling"
    heads = f"heads {spec.head_depth} deep"
    if spec.pyramid not in PYRAMIDS:
        return f"{spec.pyramid} of {spec.pyramid_width} channels, {heads}"
    nodes = PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level)
    fusion = "" if all(node.merge for node in nodes) else f" ({spec.fusion} fusion)"
    return (
        f"{spec.pyramid_cells} × {spec.pyramid} of {spec.pyramid_width} channels{fusion}, {heads}"
    )


if __name__ == "__main__":
    run(main, define_flags)
