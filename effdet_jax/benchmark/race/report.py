"""What a race has found, as plain JSON types and as Markdown."""

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from effdet_jax.benchmark.race.case import Case
from effdet_jax.benchmark.race.contestant import Contestant, Load

OWN = "effdet_jax"  # The contestant that the others are compared with.
PACKAGES = ("jax", "jaxlib", "torch", "effdet", "onnxruntime")


def row(
    case: Case, contestants: Mapping[str, Contestant], group: Sequence[str], target: float
) -> dict[str, Any]:
    """effdet_jax beside the fastest of a group of peers."""
    peer = min(group, key=lambda name: contestants[name].median)
    own, best = contestants[OWN].median, contestants[peer].median
    return {
        "case": case.title,
        "peer": peer,
        "effdet_jax_ms": round(own, 3),
        "peer_ms": round(best, 3),
        "ratio": round(own / best, 3),
        "target": target,
    }


def case_report(case: Case, contestants: Mapping[str, Contestant], load: Load) -> dict[str, Any]:
    """Every contestant\'s figures, and the load of other programs."""
    return {
        "case": case.title,
        "foreign_load": {"median": round(load.median, 3), "largest": round(load.largest, 3)},
        "contestants": {
            name: {
                "median_ms": round(contestant.median, 3),
                "images_per_second": round(1e3 * case.batch_size / contestant.median, 1),
                "fastest_ms": round(min(min(turn) for turn in contestant.milliseconds), 3),
                "peak_mib": contestant.peak_mib and round(contestant.peak_mib),
                "first_result_s": round(contestant.first_seconds, 1),
            }
            for name, contestant in contestants.items()
        },
    }


def machine(device: str) -> dict[str, Any]:
    """What the race ran on, and with: machine, processor (the GPU's name on 'gpu'), versions."""
    return {
        "machine": platform.platform(),
        "processor": _processor() if device == "cpu" else _gpu(),
        "versions": {name: _version(name) for name in PACKAGES},
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
    title = f"{report['processor']}; {versions}; {report['turns']} turns of {report['seconds']} s"
    return [title, "", *_ratio_lines(report), "", *_case_lines(report), "", _load_line(report)]


def _ratio_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        "| case | effdet_jax | fastest peer | | ratio | aim | |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in report["rows"]:
        reached = "reached" if found["ratio"] <= found["target"] else "missed"
        lines.append(
            f"| {found['case']} | {found['effdet_jax_ms']:.1f} ms | {found['peer']} | "
            f"{found['peer_ms']:.1f} ms | {found['ratio']:.2f} | {found['target']:.2f} | {reached} |"
        )
    return lines


def _case_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        "| case | contestant | median | fastest | images/s | peak memory | first result |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        for name, found in case["contestants"].items():
            memory = "—" if not found["peak_mib"] else f"{found['peak_mib']} MiB"
            lines.append(
                f"| {case['case']} | {name} | {found['median_ms']:.1f} ms | "
                f"{found['fastest_ms']:.1f} ms | {found['images_per_second']:.0f} | {memory} | "
                f"{found['first_result_s']:.0f} s |"
            )
    return lines


def _load_line(report: dict[str, Any]) -> str:
    loads = [case["foreign_load"] for case in report["cases"]]
    typical, worst = (max(load[name] for load in loads) for name in ("median", "largest"))
    return (
        f"Other programs used {typical:.0%} of the processors in the median turn, {worst:.0%} in "
        "the worst."
    )
