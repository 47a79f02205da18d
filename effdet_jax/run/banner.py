"""What a run prints before it trains: devices, data, classes, model, batch."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from effdet_jax.data.example import Source
from effdet_jax.model.counts import count_parameters
from effdet_jax.model.detector import Detector
from effdet_jax.run.decisions import Decision
from effdet_jax.run.schedule import Schedule

NO_VALIDATION = "none: nothing is evaluated, and the best checkpoint is the last one"


def banner_lines(
    train_source: Source,
    val_source: Source | None,
    mesh: Mesh,
    model: Detector,
    schedule: Schedule,
    *,
    batch_size: int,
    microbatches: int,
    peak_learning_rate: float,
    decisions: Sequence[Decision] = (),
) -> list[str]:
    """The lines, each with its title in the first eleven columns.

    Args:
      batch_size: of all devices together.
      microbatches: parts a batch is computed in.
      peak_learning_rate: after the warm-up, for this batch size.
      decisions: what the configuration had left open.
    """
    devices = mesh.devices.flatten()
    axes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    lines = [f"devices    {len(devices)} × {devices[0].device_kind}{processes}, mesh {axes}"]
    for name, source in (("train", train_source), ("val", val_source)):
        text = source.report.lines() if source else [NO_VALIDATION]
        lines.append(f"{name:10s} " + "\n           ".join(text))
    lines += _model_lines(model)
    lines.append(
        f"batch      {batch_size} = {_per_device(mesh, batch_size, microbatches)} per device; "
        f"{schedule.total_steps} steps = {schedule.total_steps / schedule.steps_per_epoch:.1f} "
        f"epochs of {schedule.steps_per_epoch:.1f} steps; "
        f"peak learning rate {peak_learning_rate:.4g}"
    )
    if decisions:
        made = "\n           ".join(decision.line() for decision in decisions)
        lines.append(f"decided    {made}")
    return lines


def _model_lines(model: Detector) -> list[str]:
    names, (height, width) = model.class_names, model.spec.image_size
    lines = [f"classes    {len(names)}: {names.preview(8)} (ids {names.ids[0]} … {names.ids[-1]})"]
    lines.append(
        f"model      {model.spec.name} at {height}×{width}, {count_parameters(model):,} parameters, "
        f"computing in {np.dtype(model.dtype).name}"
    )
    return lines


def _per_device(mesh: Mesh, batch_size: int, microbatches: int) -> str:
    """Images that a device computes at a time: '4', '2 × 8' microbatches, '8 / 2' by rows."""
    images = batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    split = f" / {mesh.shape['spatial']}" if mesh.shape["spatial"] > 1 else ""
    parts = f"{microbatches} × " if microbatches > 1 else ""
    return f"{parts}{images // microbatches}{split}"
