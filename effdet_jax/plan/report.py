"""A plan as one JSON object, and as lines to read. Every figure says what it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from effdet_jax.plan.chips import GIB, Chip, Topology
from effdet_jax.plan.program import Program
from effdet_jax.plan.roofline import Bound, bound, epoch_seconds, weak_scaling

ASSUMPTIONS = (
    "every chip reaches its published peaks: real steps are slower",
    "arithmetic and memory traffic overlap wholly, exchanges between chips not at all",
    (
        "an all-reduce of n chips sends 2 (n - 1) / n of its bytes over all links of a chip, over half "
        "of them where a side of the slice isn't closed to a ring; 1 µs per hop for each exchange"
    ),
    "the input pipeline keeps up, evaluation and checkpoints take no time",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is planned.

    Attributes:
      model: its name.
      image_size: (height, width).
      batch_size: of all devices together.
      dtype: of the computation.
      flops: of the model per image and step.
      state: bytes per device of each part of the state: parameters, optimizer, …
      image_bytes: of one image and its boxes, as the host sends them.
    """

    model: str
    image_size: tuple[int, int]
    batch_size: int
    dtype: str
    flops: float
    state: Mapping[str, int]
    image_bytes: int

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Job":
        return cls(**{**fields, "image_size": tuple(fields["image_size"])})


@dataclasses.dataclass(frozen=True)
class Target:
    """Where it is to run.

    Attributes:
      name: of the slice or the device.
      devices: how many jax sees.
      hosts: processes they belong to.
      memory: bytes of a device, 0 if unknown.
      chip: published peaks, None if unknown.
      topology: the slice, None for devices of this machine.
    """

    name: str
    devices: int
    hosts: int
    memory: float
    chip: Chip | None
    topology: Topology | None = None


def make_report(job: Job, target: Target, program: Program) -> dict[str, Any]:
    """All figures of a plan as plain JSON types; bytes, seconds and counts, per device and step."""
    per_device = job.batch_size / target.devices
    report = {
        "model": job.model,
        "image_size": list(job.image_size),
        "batch_size": job.batch_size,
        "batch_per_device": per_device,
        "dtype": job.dtype,
        "target": target.name,
        "devices": target.devices,
        "hosts": target.hosts,
        "fits": program.fits,
        "error": program.error,
        "memory": _memory(job, target, program),
        "compile_seconds": round(program.seconds, 1),
    }
    if not program.fits:
        return report
    report |= {
        "flops": {"model": job.flops * per_device, "compiler": program.flops},
        "complete": program.complete,
        "traffic": program.traffic,
        "collectives": [dataclasses.asdict(row) for row in program.collectives],
    }
    if target.chip is None:
        return report | {"bound": None, "why_no_bound": f"peaks of {target.name} aren't known here"}
    limits = bound(program, job.flops * per_device, target.chip, target.topology)
    report |= {"bound": _bound(limits), **_speed(job, target, limits)}
    if program.cycles and target.chip.clock:
        step = program.cycles / target.chip.clock + limits.exchange.total
        report["expected"] = {
            "cycles": program.cycles,
            "step": step,
            "images_per_second": job.batch_size / step,
        }
    if target.topology and target.topology.chips > 1:  # One chip's program has no exchanges in it.
        report["weak_scaling"] = _scaling(target, program, limits, per_device)
    return report | {"assumptions": list(ASSUMPTIONS)}


def _scaling(
    target: Target, program: Program, limits: Bound, per_device: float
) -> list[dict[str, Any]]:
    images = per_device * target.chip.devices
    return [
        {
            "chips": point.chips,
            "step": point.bound.step,
            "images_per_second": point.chips * images / point.bound.step,
            "efficiency": point.efficiency,
        }
        for point in weak_scaling(limits, program.collectives, target.chip)
    ]


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


def _bound(limits: Bound) -> dict[str, Any]:
    return {
        "step": limits.step,
        "arithmetic": limits.arithmetic,
        "memory": limits.memory,
        "exchange": limits.exchange.seconds,
        "latency": limits.exchange.latency,
        "limit": limits.limit,
    }


def _speed(job: Job, target: Target, limits: Bound) -> dict[str, Any]:
    speed = job.batch_size / limits.step
    return {
        "images_per_second": speed,
        "epoch_seconds": epoch_seconds(speed),
        "input": {
            "images_per_second_per_host": speed / target.hosts,
            "bytes_per_second_per_host": speed / target.hosts * job.image_bytes,
        },
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """For people."""
    height, width = report["image_size"]
    memory = report["memory"]
    verdict = "fits" if report["fits"] else f"doesn't fit: {report['error']}"
    text = [
        (
            f"{report['model']} at {height}×{width}, batch {report['batch_size']} = "
            f"{report['batch_per_device']:g} per device, {report['dtype']}, on {report['target']} "
            f"({_count(report['devices'], 'device')}, {_count(report['hosts'], 'host')}): {verdict}"
        ),
        _memory_line(memory) + ("" if report.get("complete", True) else "; machine code on top"),
    ]
    if not report["fits"]:
        return text
    text += _work_lines(report)
    if report["bound"] is None:
        return [*text, f"no bound    {report['why_no_bound']}"]
    return text + _bound_lines(report)


def _memory_line(memory: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {_gib(size)}"
        for name, size in memory.items()
        if name not in ("device", "limit", "peak")
    ]
    total = memory["limit"] or memory["device"]
    of = f" of {_gib(total)}" if total else ""
    return f"memory      {_gib(memory['peak'])}{of} per device: " + ", ".join(parts)


def _work_lines(report: Mapping[str, Any]) -> list[str]:
    flops = report["flops"]
    counted = (
        f", {flops['compiler'] / 1e12:.3g} as the compiler counts" if flops["compiler"] else ""
    )
    text = [
        (
            f"work        {flops['model'] / 1e12:.3g} TFLOP per device and step (3 × 2 × the model's "
            f"multiply-adds){counted}; {report['traffic'] / 1e9:.3g} GB through its memory"
        )
    ]
    for row in report["collectives"]:
        group = f" among {row['group']}" if row["group"] else ""
        loops = f" ({row['looped']} in loops, counted once)" if row["looped"] else ""
        text.append(
            f"exchange    {row['count']} × {row['kind']}{group}, "
            f"{row['bytes'] / 1e6:.3g} MB together, {row['largest'] / 1e6:.3g} MB the largest{loops}"
        )
    return text if report["collectives"] else [*text, "exchange    none"]


def _bound_lines(report: Mapping[str, Any]) -> list[str]:
    limits, given = report["bound"], report["input"]
    text = [
        (
            f"bound       {1e3 * limits['step']:.3g} ms per step, by {limits['limit']}: arithmetic "
            f"{1e3 * limits['arithmetic']:.3g}, memory {1e3 * limits['memory']:.3g}, exchange "
            f"{1e3 * limits['exchange']:.3g} + {1e3 * limits['latency']:.3g} of latency"
        ),
        (
            f"speed       at most {report['images_per_second']:,.0f} images/s: COCO's epoch of 118,287 "
            f"images in {_duration(report['epoch_seconds'])}"
        ),
        (
            f"input       {given['images_per_second_per_host']:,.0f} images/s per host, "
            f"{given['bytes_per_second_per_host'] / 1e9:.3g} GB/s to its devices"
        ),
    ]
    if "expected" in report:
        text.append(
            f"expected    {1e3 * report['expected']['step']:.3g} ms per step by the compiler's own "
            f"count of cycles: {report['expected']['images_per_second']:,.0f} images/s"
        )
    if report.get("weak_scaling"):
        points = [f"{p['chips']}: {p['efficiency']:.0%}" for p in report["weak_scaling"]]
        text.append("scaling     same batch per chip, efficiency by chips: " + ", ".join(points))
    return text + [f"assumed     {what}" for what in report.get("assumptions", ())]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
