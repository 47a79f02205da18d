"""Ours beside its peers, same weights, same input, in turns: medians, ratios, memory.

python -m effdet_jax.benchmark peers [--json]     (pip install 'effdet_jax[peers]')
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import flags

from effdet_jax.benchmark.race.contest import Contestant, ContestError, Load, Work, race
from effdet_jax.spec import model_spec

OURS = "ours"
PYTORCH = ("PyTorch", "PyTorch channels-last", "PyTorch compiled")
ONNX_RUNTIME = ("ONNX Runtime",)
# Largest difference of results, as a share of their largest magnitude: networks get the same input,
# detections images that each side resizes by itself.
TOLERANCE = {"forward": 1e-3, "postprocess": 1e-3, "train": 1e-3, "detect": 2e-2}
# A random network's logits in bfloat16 are an eighth of their spread from those in float32, PyTorch's
# and ours alike (D0; the largest difference is a fifth of the largest logit); its loss by a tenth.
BFLOAT16_TOLERANCE = {"forward": 0.4, "train": 0.2}
PACKAGES = ("jax", "jaxlib", "torch", "effdet", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class Goal:
    """A work and what ours may take of it: groups of peers, each with the largest ratio aimed at.

    A ratio is ours over the fastest of a group.
    """

    task: str
    model: str
    batch_size: int
    targets: tuple[tuple[tuple[str, ...], float], ...]
    device: str = "cpu"

    @property
    def work(self) -> Work:
        spec = model_spec(f"efficientdet-{self.model}")
        dtype = "float32" if self.device == "cpu" else "bfloat16"
        return Work(self.task, self.model, self.batch_size, spec.image_size, self.device, dtype)


NETWORK = ((PYTORCH, 1.0), (ONNX_RUNTIME, 1.3))
GOALS = (
    Goal("forward", "d0", 1, NETWORK),
    Goal("forward", "d0", 8, NETWORK),
    Goal("forward", "d1", 1, NETWORK),
    Goal("forward", "d3", 1, NETWORK),
    Goal("detect", "d0", 1, ((PYTORCH[:2], 0.6), (PYTORCH[2:], 1.0))),
    Goal("postprocess", "d0", 1, ((PYTORCH, 1.0),)),
    Goal("train", "d0", 4, ((PYTORCH[1:], 0.9),)),
    Goal("train", "d0", 8, ((PYTORCH[1:], 0.9),)),
    *(Goal("forward", "d0", size, ((PYTORCH[1:], 1.0),), "gpu") for size in (1, 8, 64, 256)),
    # Compiled PyTorch alone, so that as large a batch as possible fits on the card with ours.
    *(
        Goal("train", model, size, ((PYTORCH[2:], 0.67),), "gpu")
        for model, size in (("d0", 128), ("d1", 64), ("d2", 48), ("d3", 32), ("d4", 16), ("d7", 4))
    ),
)


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "only": flags.DEFINE_string(
            "only", "", "works whose title begins so, 'forward d0' for one"
        ),
        "device": flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "where all compute"),
        "batch_size": flags.DEFINE_integer(
            "batch_size", 0, "instead of the works' own", lower_bound=0
        ),
        "turns": flags.DEFINE_integer("turns", 7, "of each contestant", lower_bound=1),
        "seconds": flags.DEFINE_float("seconds", 1.0, "of a turn, at the least", lower_bound=0),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(only: str, device: str, batch_size: int, turns: int, seconds: float, as_json: bool) -> int:
    try:
        goals = goals_named(only, device)
        if batch_size:
            changed = (dataclasses.replace(goal, batch_size=batch_size) for goal in goals)
            goals = list(dict.fromkeys(changed))  # Those of other batches are the same now.
        report = compare(goals, turns=turns, seconds=seconds)
    except ContestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report) if as_json else "\n".join(table(report)))
    return 0


def goals_named(start: str, device: str) -> list[Goal]:
    """The goals of a device whose title begins so.

    Raises:
      ContestError: there are none.
    """
    of_device = [goal for goal in GOALS if goal.device == device]
    goals = [goal for goal in of_device if goal.work.title.startswith(start)]
    if not goals:
        titles = "; ".join(goal.work.title for goal in of_device)
        raise ContestError(f"no work begins with '{start}'; there are {titles}")
    return goals


def compare(goals: Sequence[Goal], *, turns: int, seconds: float) -> dict[str, Any]:
    """Runs the goals, all on one kind of device, one after the other.

    Returns:
      `rows`, one per goal and group of peers: work, peer (its fastest), ours and best_peer (medians
      in milliseconds), ratio, target; `works`, one per goal with every contestant's median, images
      per second, peak memory (on a GPU, of the GPU) and seconds to its first result, and the load
      of other programs; machine and versions.

    Raises:
      ContestError: a contestant fails or computes something else than the first peer.
    """
    rows, works = [], []
    for goal in goals:
        print(f"{goal.work.title} …", file=sys.stderr, flush=True)
        names = [OURS, *(name for group, _ in goal.targets for name in group)]
        contestants, load = _race(goal.work, names, turns, seconds)
        works.append(_report_work(goal.work, contestants, load))
        rows += [_row(goal.work, contestants, *target) for target in goal.targets]
    return {
        "machine": platform.platform(),
        "processor": _processor() if goals[0].device == "cpu" else _gpu(),
        "versions": {name: _version(name) for name in PACKAGES},
        "turns": turns,
        "seconds": seconds,
        "rows": rows,
        "works": works,
    }


def _race(
    work: Work, names: Sequence[str], turns: int, seconds: float
) -> tuple[dict[str, Contestant], Load]:
    with tempfile.TemporaryDirectory(prefix="effdet_jax_peers_") as name:
        folder = pathlib.Path(name)
        _write_inputs(work, folder, onnx=ONNX_RUNTIME[0] in names)
        contestants: dict[str, Contestant] = {}
        try:
            for name in names:
                contestants[name] = Contestant(name, work, folder)
            check_equal(work, contestants.values())
            load = race(list(contestants.values()), turns=turns, seconds=seconds)
            for contestant in contestants.values():
                contestant.finish()
        finally:
            for contestant in contestants.values():
                contestant.kill()
    return contestants, load


def _write_inputs(work: Work, folder: pathlib.Path, *, onnx: bool) -> None:
    """In a process of its own: this one never starts PyTorch."""
    program = (
        "import json, pathlib, sys; from effdet_jax.benchmark.race import torch_peer, contest;"
        "work, folder, onnx = json.loads(sys.argv[1]);"
        "torch_peer.write_inputs(contest.Work.of(work), pathlib.Path(folder), onnx=onnx)"
    )
    job = json.dumps([dataclasses.asdict(work), str(folder), onnx])
    command = [sys.executable, "-c", program, job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-12:])
        missing = "ModuleNotFoundError" in done.stderr
        hint = "\nThe peers come with: pip install 'effdet_jax[peers]'" if missing else ""
        raise ContestError(f"the inputs of '{work.title}' could not be made:\n{last}{hint}")


def check_equal(work: Work, contestants: Iterable[Contestant]) -> None:
    """All have computed the same.

    Raises:
      ContestError: one differs from the first by more than `TOLERANCE`.
    """
    first, *others = contestants
    allowed = (TOLERANCE if work.dtype == "float32" else BFLOAT16_TOLERANCE)[work.task]
    largest = np.abs(first.result).max()
    for other in others:
        if other.result.shape != first.result.shape:
            raise ContestError(
                f"{work.title}: '{other.name}' gives {other.result.shape} values, '{first.name}' "
                f"{first.result.shape}"
            )
        difference = float(np.abs(other.result - first.result).max() / largest)
        if not difference <= allowed:
            raise ContestError(
                f"{work.title}: '{other.name}' and '{first.name}' differ by {difference:.1e} of the "
                f"largest value; {allowed:.0e} is allowed"
            )


def _row(
    work: Work, contestants: dict[str, Contestant], group: Sequence[str], target: float
) -> dict[str, Any]:
    peer = min(group, key=lambda name: contestants[name].median)
    ours, best = contestants[OURS].median, contestants[peer].median
    return {
        "work": work.title,
        "peer": peer,
        "ours": round(ours, 3),
        "best_peer": round(best, 3),
        "ratio": round(ours / best, 3),
        "target": target,
    }


def _report_work(work: Work, contestants: dict[str, Contestant], load: Load) -> dict[str, Any]:
    return {
        "work": work.title,
        "foreign_load": {"median": round(load.median, 3), "largest": round(load.largest, 3)},
        "contestants": {
            name: {
                "median_ms": round(contestant.median, 3),
                "images_per_second": round(1e3 * work.batch_size / contestant.median, 1),
                "fastest_ms": round(min(min(turn) for turn in contestant.milliseconds), 3),
                "peak_mib": contestant.peak_mib and round(contestant.peak_mib),
                "first_result_s": round(contestant.first_seconds, 1),
            }
            for name, contestant in contestants.items()
        },
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


def _gpu() -> str:
    """What jax calls the GPU; asked in a process of its own, for this one leaves it alone."""
    program = "import jax; print(jax.devices('gpu')[0].device_kind)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(report: dict[str, Any]) -> list[str]:
    """The report in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['processor']}; {versions}; {report['turns']} turns of {report['seconds']} s",
        "",
        "| work | ours | fastest peer | | ratio | aim | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        reached = "reached" if row["ratio"] <= row["target"] else "missed"
        lines.append(
            f"| {row['work']} | {row['ours']:.1f} ms | {row['peer']} | {row['best_peer']:.1f} ms | "
            f"{row['ratio']:.2f} | {row['target']:.2f} | {reached} |"
        )
    lines += [
        "",
        "| work | contestant | median | fastest | images/s | peak memory | first result |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in report["works"]:
        for name, found in work["contestants"].items():
            memory = "—" if not found["peak_mib"] else f"{found['peak_mib']} MiB"
            lines.append(
                f"| {work['work']} | {name} | {found['median_ms']:.1f} ms | "
                f"{found['fastest_ms']:.1f} ms | {found['images_per_second']:.0f} | {memory} | "
                f"{found['first_result_s']:.0f} s |"
            )
    loads = [work["foreign_load"] for work in report["works"]]
    typical, worst = (max(load[name] for load in loads) for name in ("median", "largest"))
    used = (
        f"Other programs used {typical:.0%} of the processors in the median turn, {worst:.0%} in "
    )
    return [*lines, "", used + "the worst."]
