"""Trains each pyramid, fusion and scaling on rendered scenes with equal steps, and compares them.

python -m effdet_jax.benchmark learn --output=runs/ablations

The same command again goes on where it was stopped. It prints the tables and writes into the folder
results.json, results.md, report.html with charts (`pip install 'effdet_jax[report]'`), and a workdir
per run.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.benchmark.ablation.comparison import Row, compare, verdict
from effdet_jax.benchmark.ablation.groups import GROUPS, create_config
from effdet_jax.benchmark.ablation.page import History, markdown, write_ablation_page
from effdet_jax.benchmark.ablation.weights import weight_history
from effdet_jax.errors import UserError
from effdet_jax.experiment import Experiment
from effdet_jax.files import text_in_place
from effdet_jax.model.counts import summarize
from effdet_jax.report import history
from effdet_jax.run.workdir import METRICS, earlier_config
from effdet_jax.train import train

REFERENCE = "base"  # The folder of an entry that changes nothing, and whose group isn't told.
DRAWN = ("fast", "softmax")  # Whose weights are drawn: figure 5.
Values = dict[str, list[float]]  # Run → AP per seed.


class LearnError(UserError):
    """No such group or entry, or a folder with runs of other settings; says what to type instead."""


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "output": flags.DEFINE_string("output", "", "folder for the runs, the tables and the page"),
        "groups": flags.DEFINE_list("groups", list(GROUPS), "what to compare"),
        "only": flags.DEFINE_list(
            "only", [], "entries beside the first of each group; all if none"
        ),
        "seeds": flags.DEFINE_integer("seeds", 2, "runs of each entry", lower_bound=1),
        "steps": flags.DEFINE_integer("steps", 600, "of each run", lower_bound=10),
    }


def main(output: str, groups: Sequence[str], only: Sequence[str], seeds: int, steps: int) -> int:
    if not output:
        raise LearnError("no folder is given for the runs: --output=runs/ablations")
    chosen = choose(groups, only)
    plan = {
        run_name(name, changes): changes for g in chosen.values() for name, changes in g.items()
    }
    values: Values = {}
    for seed in range(seeds):
        for name, changes in plan.items():
            print(f"seed {seed}  {name:18s}", end=" ", flush=True)
            config = create_config(changes, seed=seed, steps=steps)
            ap = run(config, workdir(output, name, seed))
            if ap is None:
                print("stopped: the same command goes on from here")
                return 0
            values.setdefault(name, []).append(ap)
        write(output, chosen, values, title(seed + 1, steps))
    with open(os.path.join(output, "results.md"), encoding="utf-8") as file:
        print(file.read())
    return 0


def choose(groups: Sequence[str], only: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The groups asked for: the first entry of each, and those of `only`, or all.

    Raises:
      LearnError: a group or an entry isn't there.
    """
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise LearnError(f"--groups={unknown[0]}: there are {', '.join(GROUPS)}")
    known = dict.fromkeys(name for group in groups for name in GROUPS[group])
    unknown = [name for name in only if name not in known]
    if unknown:
        raise LearnError(f"--only={unknown[0]}: these groups have {', '.join(known)}")
    return {
        group: {
            name: changes
            for number, (name, changes) in enumerate(GROUPS[group].items())
            if number == 0 or not only or name in only
        }
        for group in groups
    }


def run_name(name: str, changes: Mapping[str, Any]) -> str:
    """Of an entry's runs: groups share the one that changes nothing."""
    return name if changes else REFERENCE


def workdir(output: str, name: str, seed: int) -> str:
    return os.path.join(output, "runs", f"{name}-seed{seed}")


def run(config: ConfigDict, folder: str) -> float | None:
    """AP after the last step of a run, trained unless it has been; None if that was stopped.

    What the training prints goes into `log.txt` in its folder.

    Raises:
      LearnError: the folder has a run of another configuration.
    """
    wanted = configs.flatten(configs.plain(config))
    differing = [
        f"{knob} is {before} and would be {wanted.get(knob)}"
        for knob, before in configs.flatten(earlier_config(folder)).items()
        if before != wanted.get(knob)
    ]
    if differing:
        raise LearnError(
            f"'{folder}' has a run in which {differing[0]}: give another --output, or delete it"
        )
    if finished_ap(folder) is None:
        started = time.time()
        os.makedirs(folder, exist_ok=True)
        with (
            open(os.path.join(folder, "log.txt"), "a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
        ):
            train(config, folder)
        print(f"{time.time() - started:5.0f} s", end="  ")
    ap = finished_ap(folder)
    if ap is not None:
        print(f"AP {ap:.3f}", flush=True)
    return ap


def finished_ap(folder: str) -> float | None:
    """AP of a run's evaluation, of which there is one, after the last step; None before that."""
    evaluations = history.History(os.path.join(folder, METRICS)).evaluations
    return evaluations[-1][history.AP] if evaluations else None


def write(output: str, chosen: Mapping[str, Mapping[str, Any]], values: Values, description: str):
    """Writes the results of all runs so far."""
    costs = {name: count(changes) for g in chosen.values() for name, changes in g.items()}
    groups = {
        group: compare({name: values[run_name(name, changes)] for name, changes in entries.items()})
        for group, entries in chosen.items()
    }
    histories: dict[str, History] = {
        name: weight_history(workdir(output, run_name(name, changes), 0))
        for name, changes in chosen.get("fusions", {}).items()
        if name in DRAWN
    }
    results = {
        "description": description,
        "groups": {
            group: {
                "entries": [entry(row, costs[row.name]) for row in rows],
                "verdict": verdict(rows),
            }
            for group, rows in groups.items()
        },
        "fusion_weights": histories,
    }
    text = markdown(description, groups, costs, histories)
    for name, content in (("results.json", json.dumps(results, indent=1)), ("results.md", text)):
        with text_in_place(os.path.join(output, name)) as file:
            file.write(content)
    page = os.path.join(output, "report.html")
    write_ablation_page(page, description, groups, costs, histories)


def entry(row: Row, cost: Mapping[str, int]) -> dict[str, Any]:
    """A row as plain JSON types."""
    return {
        "name": row.name,
        "AP": list(row.values),
        "mean": row.mean,
        "spread": row.spread,
        "differences": list(row.differences),
        "difference": row.difference,
        "is_told_apart": row.is_told_apart,
        **cost,
    }


def count(changes: Mapping[str, Any]) -> dict[str, int]:
    """Parameters and multiply-adds of an entry's model."""
    summary = summarize(Experiment.from_config(create_config(changes, seed=0, steps=10)).spec)
    return {kind: summary[kind]["total"] for kind in ("parameters", "multiply_adds")}


def title(seeds: int, steps: int) -> str:
    """What the numbers are of."""
    base = create_config({}, seed=0, steps=steps)
    return (
        f"AP on {base.data.shapes_val} rendered scenes after {steps} steps of {base.batch_size}, "
        f"{seeds} seed{'s' * (seeds > 1)}, from random weights, jax {jax.__version__}."
    )
