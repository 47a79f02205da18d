"""What a data folder holds, and what is wrong with it, before anything is trained.

python -m effdet_jax.check_data FOLDER --report=data.html
python -m effdet_jax.check_data FOLDER --write=coco OUT  # The set in another format: coco, voc, yolo.

Ends with status 0 if it can be trained on, with 2 if training would refuse it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import is_unused
from effdet_jax.cli import define_config_flag, run
from effdet_jax.config import ConfigError
from effdet_jax.data.check import count, note_copies
from effdet_jax.data.example import DataError, DataReport, GroundTruth, Source
from effdet_jax.data.write import WRITERS, write_dataset
from effdet_jax.detection.anchor_fit import AnchorFit
from effdet_jax.experiment import Experiment
from effdet_jax.experiment_data import create_spec
from effdet_jax.report.data_page import write_data_page
from effdet_jax.run.data_fit import FEW_BOXES


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=False),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
        "report": flags.DEFINE_string("report", "", "HTML page to write"),
        "write": flags.DEFINE_enum(
            "write", None, list(WRITERS), "write the set in this format to the folder OUT"
        ),
    }


def main(
    folders: Sequence[str],
    config: ConfigDict | None,
    as_json: bool,
    report: str,
    write: str | None,
) -> int:
    config = config or configs.finetune()
    folders, out = (folders[:-1], folders[-1:]) if write else (folders, [])
    named = config.data.dir or config.data.train_json or config.data.source != "auto"
    if len(folders) > 1 or not (folders or named):
        usage = f"FOLDER --write={write} OUT" if write else "FOLDER"
        raise ConfigError(f"name one data folder: python -m effdet_jax.check_data {usage}")
    if folders:
        config.data.dir = folders[0]
    config.data.tolerate = True  # To see all of it; what stops training is told at the end.
    experiment = Experiment.from_config(config)
    sources, reports = open_splits(experiment)
    if report:
        write_data_page(report, config.data.dir or config.data.source, reports, sources)
    if as_json:
        print(json.dumps(to_dict(experiment, reports, sources), ensure_ascii=False, indent=1))
    else:
        print("\n".join(lines(reports, sources)))
        if "train" in sources:
            print("\n".join(choice_lines(experiment)))
        print(f"\nwrote {report}" if report else "", end="\n" if report else "")
    if write:
        print("\n".join(write_copy(config, write, *out)))
    return 2 if any(found.stops for found in reports.values()) else 0


def write_copy(config: ConfigDict, kind: str, out: str) -> list[str]:
    """Writes the set with the splits that it has, none drawn; returns lines to print."""
    config.data.val_fraction = 0.0
    experiment = Experiment.from_config(config)
    sources = {"train": experiment.train_source}
    for split in ("val", "test") if hasattr(experiment.train_source, "paths") else ():
        if source := experiment.open_source(split):
            sources[split] = source
    return write_dataset(sources, kind, out)


def open_splits(experiment: Experiment) -> tuple[dict[str, Source], dict[str, DataReport]]:
    """(sources that can be used, reports of all) by split; why one can't be used is a stop of its report."""
    sources, reports = {}, {}
    for split in ("train", "val"):
        try:
            if split == "train":
                source = experiment.train_source
            else:
                intensity = getattr(sources.get("train"), "intensity", ())
                source = experiment.open_source(split, intensity=intensity)
            if source is None:
                continue
            sources[split], reports[split] = source, source.report
            if not source.report.boxes and not source.endless:
                count(source)
        except DataError as error:
            reports[split] = error.report or DataReport()
            if not error.report:
                reports[split].stops.append(str(error))
    note_copies(sources)
    return sources, reports


def to_dict(
    experiment: Experiment, reports: Mapping[str, DataReport], sources: Mapping[str, Source]
) -> dict[str, Any]:
    """What `--json` prints; what stops training is a fault of the kind 'stops training'."""
    splits = {}
    for split, found in reports.items():
        faults = {"stops training": found.stops} if found.stops else {}
        splits[split] = {
            "images": found.images,
            "empty": found.empty,
            "boxes": found.boxes,
            "crowd": found.crowd,
            "classes": found.classes,
            "faults": [
                {"kind": kind, "count": len(cases), "first": cases[0]}
                for kind, cases in (faults | found.faults).items()
            ],
        }
    if "train" not in sources:
        return {"splits": splits, "anchors": {}, "decisions": []}
    fit = anchors(experiment)
    return {
        "splits": splits,
        "anchors": fit.as_json() if fit else {},
        "decisions": [dataclasses.asdict(decision) for decision in experiment.decisions],
    }


def anchors(experiment: Experiment) -> AnchorFit | None:
    """How the model's own anchors fit the boxes, None where there are none."""
    knobs, names = experiment.asked.model, experiment.class_names
    spec = create_spec(knobs, len(names), experiment.intensity)
    return experiment.data_fit.fit_anchors(spec)


def lines(reports: Mapping[str, DataReport], sources: Mapping[str, Source]) -> list[str]:
    """The page for a terminal."""
    found = []
    for split, report in reports.items():
        found += [f"{split:10s} {report.lines()[0]}", *_class_lines(report)]
        if split in sources and not sources[split].endless:
            found += _size_lines(list(sources[split].ground_truth()), report.modes)
        found += [f"           {note}" for note in report.notes]
        for kind, cases in sorted(report.faults.items(), key=lambda item: -len(item[1])):
            found.append(f"  {len(cases):6d} × {kind}")
            found += [f"           {case}" for case in cases[: report.EXAMPLES_SHOWN]]
        found += [f"  stops training: {reason}" for reason in report.stops]
    stopped = any(report.stops for report in reports.values())
    faults = sum(len(cases) for report in reports.values() for cases in report.faults.values())
    verdict = "training would refuse this data" if stopped else "this data can be trained on"
    return [*found, "", f"{verdict}; {faults} faults"]


def choice_lines(experiment: Experiment) -> list[str]:
    """How anchors fit, and what training would choose by itself."""
    fit = anchors(experiment)
    found = ["", "anchors    " + "\n           ".join(fit.lines())] if fit else []
    chosen = [decision.line() for decision in experiment.decisions]
    return [*found, "choices    " + "\n           ".join(chosen)] if chosen else found


def _size_lines(truths: Sequence[GroundTruth], modes: Mapping[str, int]) -> list[str]:
    """Ranges of images and boxes, pixels."""
    sizes = np.array([truth.size for truth in truths]).reshape(-1, 2)
    boxes = np.concatenate([np.zeros((0, 4)), *(truth.boxes for truth in truths)])
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    found = []
    if len(sizes):
        (low, narrow), (high, wide) = sizes.min(0), sizes.max(0)
        kinds = ", ".join(f"{count} {mode}" for mode, count in modes.items())
        found.append(
            f"           images {narrow} … {wide} px wide, {low} … {high} px high"
            + (f"; {kinds}" if kinds else "")
        )
    if len(sides):
        least, half, most = np.percentile(sides, (0, 50, 100))
        found.append(
            f"           boxes as squares of {least:.0f} … {most:.0f} px, half of them below {half:.0f} px"
        )
    return found


def _class_lines(report: DataReport) -> list[str]:
    """A bar per class, the most frequent first, with a warning at the rare ones."""
    named = {name: n for name, n in report.classes.items() if n or not is_unused(name)}
    width, most = max(map(len, named), default=0), max(named.values(), default=0)
    found = []
    for name, boxes in sorted(named.items(), key=lambda item: -item[1]):
        rare = (
            "" if boxes >= FEW_BOXES else "  no boxes: can't be learned" if not boxes else "  few"
        )
        bar = "▇" * round(30 * boxes / max(most, 1))
        found.append(f"           {name:{width}s} {boxes:8d} {bar}{rare}")
    return found


if __name__ == "__main__":
    run(main, define_flags, arguments="folders")
