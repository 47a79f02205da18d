"""A plan as one JSON object, and as lines to read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from effdet_jax.plan.chips import GIB, Topology
from effdet_jax.plan.job import Job
from effdet_jax.plan.program import Program


@dataclasses.dataclass(frozen=True)
class Target:
    """Where it is to run.

    Attributes:
      name: of the slice or the device.
      devices: how many jax sees.
      memory: bytes of a device, 0 if unknown.
      topology: the slice, None for devices of this machine.
    """

    name: str
    devices: int
    memory: int
    topology: Topology | None = None


def make_report(job: Job, target: Target, program: Program) -> dict[str, Any]:
    """All figures of a plan as plain JSON types: bytes, operations and seconds per device and step.

    `arithmetic_seconds` is the model's arithmetic at the chip's published peak. A step takes at
    least that; it doesn't predict one. None for devices of this machine.
    """
    per_device = job.batch_size / target.devices
    flops = job.flops * per_device
    chip = target.topology.chip if target.topology else None
    return {
        "model": job.model,
        "image_size": list(job.image_size),
        "batch_size": job.batch_size,
        "batch_per_device": per_device,
        "dtype": job.dtype,
        "target": target.name,
        "devices": target.devices,
        "fits": program.fits,
        "error": program.error,
        "memory": _memory(job, target, program),
        "flops": flops,
        "arithmetic_seconds": flops * chip.devices / chip.flops if chip else None,
        "compile_seconds": round(program.seconds, 1),
    }


def _memory(job: Job, target: Target, program: Program) -> dict[str, Any]:
    batch = round(job.image_bytes * job.batch_size / target.devices)
    known = sum(job.state.values()) + batch
    return {
        "device": target.memory,
        "limit": program.limit,
        "peak": program.peak,
        **job.state,
        "batch": batch,
        "activations": max(program.peak - known, 0),
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people; remedies, if it has any, at the end."""
    height, width = report["image_size"]
    verdict = "fits" if report["fits"] else f"doesn't fit: {report['error']}"
    text = [
        (
            f"{report['model']} at {height}×{width}, batch {report['batch_size']} = "
            f"{report['batch_per_device']:g} per device, {report['dtype']}, on {report['target']} "
            f"({report['devices']} device{'s' if report['devices'] > 1 else ''}): {verdict}"
        ),
        _memory_line(report["memory"]),
    ]
    if report["arithmetic_seconds"]:
        text.append(
            f"arithmetic  {report['flops'] / 1e12:.3g} TFLOP per device and step: at the chip's "
            f"published peak at least {1e3 * report['arithmetic_seconds']:.3g} ms; real steps are "
            "slower"
        )
    return text + [_remedy_line(row) for row in report.get("remedies", ())]


def _memory_line(memory: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {_gib(size)}"
        for name, size in memory.items()
        if name not in ("device", "limit", "peak")
    ]
    total = memory["limit"] or memory["device"]
    of = f" of {_gib(total)}" if total else ""
    parts = ", ".join(parts)
    return f"memory      {_gib(memory['peak'])}{of} per device: {parts}; machine code on top"


def _remedy_line(row: Mapping[str, Any]) -> str:
    """'try         --config.remat=blocks: 11.20 GiB, fits'."""
    changes = " ".join(f"--config.{key}={value}" for key, value in row["changes"].items())
    verdict = "fits" if row["fits"] else "too much as well"
    return f"try         {changes}: {_gib(row['peak'])}, {verdict}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
