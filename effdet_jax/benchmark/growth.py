"""How time and memory grow with image size, batch and φ; drawn with --out.

python -m effdet_jax.benchmark growth --config=configs/d0.py --out=growth.png
"""

import copy
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.benchmark.works import WORKS, benchmark
from effdet_jax.command import define_config_flag
from effdet_jax.counts import summarize
from effdet_jax.variants import list_models

SIZES = (256, 384, 512, 640, 768, 896, 1024)
BATCHES = (1, 2, 4, 8)
MODELS = tuple(name for name in list_models() if "lite" not in name)
# What grows along each axis, and what its work is measured in.
AXES = {"size": "pixels", "batch": "pixels", "model": "multiply-adds"}
MEASURES = {"median_ms": "milliseconds", "peak_mib": "MiB"}


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "axes": flags.DEFINE_multi_enum("axis", list(AXES), list(AXES), "what to let grow"),
        "models": flags.DEFINE_multi_enum("model", MODELS, MODELS, "of the axis 'model'"),
        "works": flags.DEFINE_multi_enum("work", list(WORKS), WORKS, "what to measure"),
        "rounds": flags.DEFINE_integer("rounds", 5, "measured runs of each", lower_bound=2),
        "out": flags.DEFINE_string("out", "", "file to draw into: growth.png, growth.svg"),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    config: ConfigDict,
    axes: Sequence[str],
    models: Sequence[str],
    works: Sequence[str],
    rounds: int,
    out: str,
    as_json: bool,
) -> int:
    if out:
        _import_pyplot()  # Before minutes of measuring.
    rows = list(measure(config, axes, works, rounds, models))
    report = {"rows": rows, "exponents": exponents(rows)}
    if out:
        draw(report, out)
    print(json.dumps(report) if as_json else "\n".join(lines(report)))
    return 0


def measure(
    config: ConfigDict,
    axes: Iterable[str],
    works: Sequence[str],
    rounds: int,
    models: Sequence[str] = MODELS,
) -> Iterator[dict[str, Any]]:
    """A row per axis, point and work: axis, at (what the point is), amount (its pixels or
    multiply-adds), work, median_ms and peak_mib (None for the input pipeline)."""
    for axis in axes:
        for at, changed, batch_size in _points(config, axis, models):
            spec = configs.spec_of(changed, 90)
            amount = batch_size * math.prod(spec.image_size)
            if axis == "model":
                amount = summarize(spec)["multiply_adds"]["total"]
            print(f"{axis} {at} …", file=sys.stderr, flush=True)
            report = benchmark(changed, works, batch_size=batch_size, rounds=rounds)
            jax.clear_caches()  # Programs of one point are of no use to the next.
            for row in report["rows"]:
                measured = {name: row[name] for name in MEASURES}
                print(f"  {row['work']}: {measured}", file=sys.stderr, flush=True)
                yield {"axis": axis, "at": at, "amount": amount, "work": row["work"], **measured}


def _points(
    config: ConfigDict, axis: str, models: Sequence[str]
) -> Iterator[tuple[str, ConfigDict, int]]:
    """(what it is, config, batch size) of each point of an axis."""
    for at in {"size": SIZES, "batch": BATCHES, "model": models}[axis]:
        changed = copy.deepcopy(config)
        if axis == "size":
            changed.model.image_size = str(at)
        elif axis == "model":
            changed.model.name, changed.model.image_size = at, ""
        yield str(at), changed, at if axis == "batch" else 1


def exponents(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """{axis, work, measure, exponent}: what is measured grows as the amount to this power."""
    found = []
    for axis, work, measure in _series(rows):
        amounts, values = _line(rows, axis, work, measure)
        slope = np.polyfit(np.log(amounts), np.log(values), 1)[0]
        found.append(
            {"axis": axis, "work": work, "measure": measure, "exponent": round(float(slope), 3)}
        )
    return found


def _series(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Every (axis, work, measure) that has two points or more."""
    keys = dict.fromkeys((row["axis"], row["work"]) for row in rows)
    series = [(*key, measure) for key in keys for measure in MEASURES]
    return [key for key in series if len(_line(rows, *key)[0]) > 1]


def _line(
    rows: Sequence[Mapping[str, Any]], axis: str, work: str, measure: str
) -> tuple[list[float], list[float]]:
    points = [
        (row["amount"], row[measure])
        for row in rows
        if (row["axis"], row["work"]) == (axis, work) and row[measure]
    ]
    return [amount for amount, _ in points], [value for _, value in points]


def lines(report: Mapping[str, Any]) -> list[str]:
    """Tables for people: every point, then the exponents."""
    columns = ("axis", "at", "work", *MEASURES)
    text = ["".join(f"{column:>18s}" for column in columns)]
    for row in report["rows"]:
        cells = ("—" if row[column] is None else str(row[column]) for column in columns)
        text.append("".join(f"{cell:>18s}" for cell in cells))
    for row in report["exponents"]:
        text.append(
            f"{row['work']}: {MEASURES[row['measure']]} grow as {AXES[row['axis']]} "
            f"(by {row['axis']}) to the power of {row['exponent']}"
        )
    return text


def draw(report: Mapping[str, Any], path: str):
    """A panel per axis and measure, a line per work, both scales logarithmic."""
    pyplot = _import_pyplot()
    axes = list(dict.fromkeys(row["axis"] for row in report["rows"]))
    figure, panels = pyplot.subplots(
        len(MEASURES), len(axes), figsize=(4.5 * len(axes), 7), squeeze=False, layout="constrained"
    )
    for row in report["exponents"]:
        axis, work, measure = row["axis"], row["work"], row["measure"]
        panel = panels[list(MEASURES).index(measure)][axes.index(axis)]
        amounts, values = _line(report["rows"], axis, work, measure)
        panel.loglog(amounts, values, "o-", label=f"{work}: power {row['exponent']:.2f}")
        panel.set(title=f"by {axis}", xlabel=AXES[axis], ylabel=MEASURES[measure])
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120)


def _import_pyplot() -> Any:
    """
    Raises:
      ConfigError: matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise configs.ConfigError(
            "--out draws with matplotlib: pip install 'effdet_jax[plot]'"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
