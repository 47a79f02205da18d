"""effdet_jax beside others, same weights, same input, in turns: medians, ratios, memory.

python -m effdet_jax.benchmark peers                     (pip install 'effdet_jax[peers]')
python -m effdet_jax.benchmark peers --against=FOLDER    another version of this package instead
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import flags

from effdet_jax.benchmark.race.case import Case
from effdet_jax.benchmark.race.contestant import RUNNER, Contestant, Load, RaceError, race
from effdet_jax.benchmark.race.report import OWN, case_report, machine, row, table
from effdet_jax.spec import model_spec

PYTORCH = ("PyTorch", "PyTorch channels-last", "PyTorch compiled")
ONNX_RUNTIME = ("ONNX Runtime",)
# Largest difference of results, as a share of their largest magnitude: networks get the same input,
# detections images that each side resizes by itself.
TOLERANCE = {"forward": 1e-3, "postprocess": 1e-3, "train": 1e-3, "detect": 2e-2}
# A random network's logits in bfloat16 are an eighth of their spread from those in float32, PyTorch's
# and effdet_jax's alike (D0; the largest difference is a fifth of the largest logit); its loss by a tenth.
BFLOAT16_TOLERANCE = {"forward": 0.4, "train": 0.2}


@dataclasses.dataclass(frozen=True)
class Goal:
    """A case and the time aimed at: groups of peers, each with the largest ratio to it.

    A ratio is effdet_jax's time over that of the fastest of a group.
    """

    task: str
    model: str
    batch_size: int
    targets: tuple[tuple[tuple[str, ...], float], ...]
    device: str = "cpu"

    @property
    def case(self) -> Case:
        spec = model_spec(f"efficientdet-{self.model}")
        dtype = "float32" if self.device == "cpu" else "bfloat16"
        return Case(self.task, self.model, self.batch_size, spec.image_size, self.device, dtype)


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
    # Compiled PyTorch alone, so that as large a batch as possible fits on the card with effdet_jax.
    *(
        Goal("train", model, size, ((PYTORCH[2:], 0.67),), "gpu")
        for model, size in (("d0", 128), ("d1", 64), ("d2", 48), ("d3", 32), ("d4", 16), ("d7", 4))
    ),
)


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "only": flags.DEFINE_string(
            "only", "", "cases whose title begins so, 'forward d0' for one"
        ),
        "device": flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "where all compute"),
        "batch_size": flags.DEFINE_integer(
            "batch_size", 0, "instead of the cases' own", lower_bound=0
        ),
        "against": flags.DEFINE_string(
            "against", "", "folder that holds another version of this package: race it, no peers"
        ),
        "turns": flags.DEFINE_integer("turns", 7, "of each contestant", lower_bound=1),
        "seconds": flags.DEFINE_float("seconds", 1.0, "of a turn, at the least", lower_bound=0),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    only: str,
    device: str,
    batch_size: int,
    against: str,
    turns: int,
    seconds: float,
    as_json: bool,
) -> int:
    goals = goals_named(only, device)
    if batch_size:
        goals = [dataclasses.replace(goal, batch_size=batch_size) for goal in goals]
    if against:
        check_package(against)
        targets = (((f"{OWN} in {against}",), 1.0),)
        goals = [dataclasses.replace(goal, targets=targets) for goal in goals]
    goals = list(dict.fromkeys(goals))  # Those of other batches may be the same now.
    report = compare(goals, against, turns=turns, seconds=seconds)
    print(json.dumps(report) if as_json else "\n".join(table(report)))
    return 0


def check_package(folder: str) -> None:
    """Raises:
    RaceError: the folder holds no version of this package that can race.
    """
    runner = pathlib.Path(folder, *RUNNER.split(".")).with_suffix(".py")
    if not runner.is_file():
        raise RaceError(
            f"--against={folder}: there is no {runner}; name a folder that holds a checkout of this "
            "project, as made by: git worktree add FOLDER VERSION"
        )


def goals_named(start: str, device: str) -> list[Goal]:
    """The goals of a device whose title begins so.

    Raises:
      RaceError: there are none.
    """
    of_device = [goal for goal in GOALS if goal.device == device]
    goals = [goal for goal in of_device if goal.case.title.startswith(start)]
    if not goals:
        titles = "; ".join(goal.case.title for goal in of_device)
        raise RaceError(f"no case begins with '{start}'; there are {titles}")
    return goals


def compare(
    goals: Sequence[Goal], against: str = "", *, turns: int, seconds: float
) -> dict[str, Any]:
    """Runs the goals, all on one kind of device, one after the other.

    Args:
      against: folder of the package that contestants 'effdet_jax in …' run.

    Returns:
      `rows`, one per goal and group of peers: case, peer (its fastest), effdet_jax_ms and peer_ms
      (medians), ratio, target; `cases`, one per goal with every contestant's median, images per
      second, peak memory (on a GPU, of the GPU) and seconds to its first result, and the load of
      other programs; machine and versions.

    Raises:
      RaceError: a contestant fails or computes something else than the first peer.
    """
    rows, cases = [], []
    for goal in goals:
        print(f"{goal.case.title} …", file=sys.stderr, flush=True)
        names = [OWN, *(name for group, _ in goal.targets for name in group)]
        contestants, load = _race(goal.case, names, against, turns, seconds)
        cases.append(case_report(goal.case, contestants, load))
        rows += [row(goal.case, contestants, *target) for target in goal.targets]
    return {
        **machine(goals[0].device),
        "turns": turns,
        "seconds": seconds,
        "rows": rows,
        "cases": cases,
    }


def _race(
    case: Case, names: Sequence[str], against: str, turns: int, seconds: float
) -> tuple[dict[str, Contestant], Load]:
    with tempfile.TemporaryDirectory(prefix="effdet_jax_peers_") as name:
        folder = pathlib.Path(name)
        _write_inputs(case, folder, onnx=ONNX_RUNTIME[0] in names)
        contestants: dict[str, Contestant] = {}
        try:
            for name in names:
                contestants[name] = Contestant(
                    name, case, folder, pathlib.Path(against) if name != OWN and against else None
                )
            check_equal(case, contestants.values())
            load = race(list(contestants.values()), turns=turns, seconds=seconds)
            for contestant in contestants.values():
                contestant.finish()
        finally:
            for contestant in contestants.values():
                contestant.kill()
    return contestants, load


def _write_inputs(case: Case, folder: pathlib.Path, *, onnx: bool) -> None:
    """In a process of its own: this one never starts PyTorch."""
    program = (
        "import json, pathlib, sys; from effdet_jax.benchmark.race import torch_peer, case;"
        "fields, folder, onnx = json.loads(sys.argv[1]);"
        "torch_peer.write_inputs(case.Case.from_dict(fields), pathlib.Path(folder), onnx=onnx)"
    )
    job = json.dumps([dataclasses.asdict(case), str(folder), onnx])
    command = [sys.executable, "-c", program, job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-12:])
        missing = "ModuleNotFoundError" in done.stderr
        hint = "\nThe peers come with: pip install 'effdet_jax[peers]'" if missing else ""
        raise RaceError(f"the inputs of '{case.title}' could not be made:\n{last}{hint}")


def check_equal(case: Case, contestants: Iterable[Contestant]) -> None:
    """All have computed the same.

    Raises:
      RaceError: one differs from the first by more than `TOLERANCE`.
    """
    first, *others = contestants
    allowed = (TOLERANCE if case.dtype == "float32" else BFLOAT16_TOLERANCE)[case.task]
    largest = np.abs(first.result).max()
    for other in others:
        if other.result.shape != first.result.shape:
            raise RaceError(
                f"{case.title}: '{other.name}' gives {other.result.shape} values, '{first.name}' "
                f"{first.result.shape}"
            )
        difference = float(np.abs(other.result - first.result).max() / largest)
        if not difference <= allowed:
            raise RaceError(
                f"{case.title}: '{other.name}' and '{first.name}' differ by {difference:.1e} of the "
                f"largest value; {allowed:.0e} is allowed"
            )
