"""What training would take on a slice of TPUs that isn't here: memory, work, exchanges, speed.

python -m effdet_jax.plan --config=configs/d0.py --topology=v5e-8

The very train step is compiled for the slice with libtpu's compiler (pip install 'jax[tpu]'), which
takes minutes and needs no TPU. Without `--topology` it is compiled for the devices of this machine.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import COCO
from effdet_jax.cli import define_config_flag, run
from effdet_jax.distributed.mesh import batch_sharding
from effdet_jax.experiment import mesh_of, model_of, optimizer_of, plan_of, train_step_of
from effdet_jax.model.counts import summarize
from effdet_jax.model.detector import Detector
from effdet_jax.plan import aot, chips, roofline
from effdet_jax.plan.program import Program
from effdet_jax.plan.report import Job, Target, lines, make_report
from effdet_jax.plan.search import largest_fitting
from effdet_jax.training.state import TrainState, abstract_state

# Bytes that a step keeps per byte that a convolution puts out, to begin a search with: 1.3 to 2.6 for
# the family on TPUs, less as memory gets short (D0's 128 images on v5e: 1.3).
KEPT = 1.5
# What makes a program smaller, from what costs least.
REMEDIES = (
    {"remat": "blocks"},
    {"remat": "full"},
    {"microbatches": 2},
    {"microbatches": 4},
    {"mesh.spatial": 2},
    {"mesh.spatial": 4},
)


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "topology": flags.DEFINE_string(
            "topology",
            "",
            "slice of TPUs, 'v5e:8x8' or 'v5e-64'; this machine's devices if not given",
        ),
        "batch": flags.DEFINE_string(
            "batch", "", "global batch: a number, or 'auto' for the largest that fits"
        ),
        "full": flags.DEFINE_bool(
            "full", False, "generate machine code, too: its size and expected cycles; much longer"
        ),
        "remedies": flags.DEFINE_bool("remedies", True, "try what would fit if it doesn't"),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
    }


def main(
    config: ConfigDict,
    topology: str,
    batch: str,
    full: bool,
    remedies: bool,
    as_json: bool,
) -> int:
    planner = Planner(find_target(topology), full=full)
    config = copy.deepcopy(config)
    if batch not in ("", "auto"):
        if not batch.isdecimal() or not int(batch):
            raise configs.ConfigError(f"--batch={batch} is neither a number nor 'auto'")
        config.batch_size = int(batch)
    if batch == "auto":
        report = planner.largest(config)
    else:
        report = planner.plan(config)
        if not report["fits"] and remedies:
            report["remedies"] = list(planner.remedies(config))
    print(json.dumps(report) if as_json else "\n".join([*lines(report), *remedy_lines(report)]))
    return 0 if report["fits"] else 1


def find_target(topology: str) -> Target:
    """The slice by name, or this machine's devices.

    Raises:
      TopologyError: the name is none.
    """
    if topology:
        slice_ = chips.parse_topology(topology)
        chip = slice_.chip
        memory = chip.hbm / chip.devices - chips.RESERVED
        return Target(slice_.name, slice_.chips * chip.devices, slice_.hosts, memory, chip, slice_)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    chip = chips.gpu_of(device.device_kind)
    return Target(device.device_kind, jax.device_count(), jax.process_count(), memory, chip)


class Planner:
    """Plans for one target; a config is compiled once."""

    def __init__(self, target: Target, *, full: bool = False):
        self._target, self._full = target, full
        self._compiled: dict[str, tuple[Job, Program]] = {}

    def plan(self, config: ConfigDict) -> dict[str, Any]:
        """The report of a config as it is.

        Raises:
          ConfigError: it can't be run on that many devices.
        """
        job, program = self._compile(config)
        report = make_report(job, self._target, program)
        return report | {"versions": versions()}

    def largest(self, config: ConfigDict) -> dict[str, Any]:
        """The report of the largest batch that fits, or of one image per device if none does.

        Raises:
          ConfigError: the memory of the devices isn't known.
        """
        target, spatial = self._target, config.mesh.spatial
        if not target.memory:
            raise configs.ConfigError(
                f"--batch=auto: how much memory a {target.name} has isn't known; give a number, or a "
                "slice of TPUs with --topology"
            )
        # Devices that share images' rows take one batch together.
        per_data = target.devices // spatial
        model = _model_for(config, on_cpu=False)  # CPUs don't say what memory they have.
        outputs = summarize(model.spec)["outputs"]["total"] * np.dtype(model.dtype).itemsize
        first = target.memory * spatial / (KEPT * outputs)

        def compile(per_device: int) -> Program:
            return self._compile(with_changes(config, {"batch_size": per_device * per_data}))[1]

        size, tried = largest_fitting(compile, target.memory, first=first)
        report = self.plan(with_changes(config, {"batch_size": (size or 1) * per_data}))
        peaks = {str(n * per_data): program.peak for n, program in sorted(tried.items())}
        return report | {"tried": peaks}

    def remedies(self, config: ConfigDict) -> Iterator[dict[str, Any]]:
        """What would make it fit, with the memory that each takes; the largest batch at last."""
        known = configs.flatten(config)
        for changes in REMEDIES:
            if all(key in known for key in changes):
                try:
                    report = self.plan(with_changes(config, changes))
                except configs.ConfigError:
                    continue  # Not for this batch and this many devices.
                yield {"changes": changes, "fits": report["fits"], "peak": report["memory"]["peak"]}
        report = self.largest(config)
        changes = {"batch_size": report["batch_size"]}
        yield {"changes": changes, "fits": report["fits"], "peak": report["memory"]["peak"]}

    def _compile(self, config: ConfigDict) -> tuple[Job, Program]:
        configs.validate(config)
        target = self._target
        key = config.to_json()

        def compile() -> tuple[Job, Program]:
            make = functools.partial(build, config)
            what = f"compiling {config.model.name}, batch {config.batch_size}, for {target.name}"
            with aot.progress(what):
                if target.topology:
                    return aot.compile_ahead(make, target.topology, full=self._full)
                return aot.compile_here(make, jax.devices())

        if key not in self._compiled:
            self._compiled[key] = compile()
        job, program = self._compiled[key]
        if program.fits and 0 < target.memory < program.peak:
            # libtpu would refuse it in the end, compilers for GPUs never do.
            program = dataclasses.replace(program, error="out of memory")
        return job, program


def versions() -> dict[str, str]:
    return {"jax": jax.__version__, "libtpu": aot.libtpu_version()}


def build(
    config: ConfigDict, devices: list[jax.Device]
) -> tuple[Callable[..., Any], tuple[Any, Any], Job]:
    """(the jitted train step, its abstract arguments, what is known of it beforehand)."""
    mesh = mesh_of(config, devices)
    model = _model_for(config, on_cpu=devices[0].platform == "cpu")
    step = train_step_of(config, model, plan_of(config, roofline.COCO_IMAGES), mesh)
    state = abstract_state(model, optimizer_of(config, model), mesh)
    batch = abstract_batch(config, model.spec.image_size, mesh)
    return step, (state, batch), job_of(model, state, batch)


def _model_for(config: ConfigDict, *, on_cpu: bool) -> Detector:
    # Nothing is computed here: 'auto' is what the devices compute in, not this machine.
    accelerated = config.dtype == "auto" and not on_cpu
    return model_of(config, COCO, jnp.bfloat16 if accelerated else None)


def job_of(model: Detector, state: TrainState, batch: Mapping[str, jax.ShapeDtypeStruct]) -> Job:
    """What is known of a run before anything is compiled."""
    batch_size = batch["image"].shape[0]
    multiply_adds = summarize(model.spec)["multiply_adds"]["total"]
    return Job(
        model=model.spec.name,
        image_size=model.spec.image_size,
        batch_size=batch_size,
        dtype=np.dtype(model.dtype).name,
        # Forward, gradient by activations, gradient by weights; a multiply-add is two operations.
        flops=3 * 2 * multiply_adds,
        state={
            "parameters": bytes_per_device(state.params),
            "optimizer": bytes_per_device(state.opt_state),
            "averages": bytes_per_device((state.ema, state.batch_stats)),
        },
        image_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in batch.values()) // batch_size,
    )


def abstract_batch(
    config: ConfigDict, image_size: tuple[int, int], mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """What the step reads of a training batch."""
    images, boxes = config.batch_size, config.data.max_boxes
    shapes = {
        "image": ((images, *image_size, 3), jnp.uint8),
        "content": ((images, 2), jnp.int32),
        "boxes": ((images, boxes, 4), jnp.float32),
        "labels": ((images, boxes), jnp.int32),
        "valid": ((images,), jnp.bool_),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, name))
        for name, (shape, dtype) in shapes.items()
    }


def bytes_per_device(tree: Any) -> int:
    """Of abstract arrays, as they are sharded."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with knobs by their full names: {'optim.momentum': 0.8}."""
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(dict(changes))
    return changed


def remedy_lines(report: Mapping[str, Any]) -> list[str]:
    """'try         --config.remat=blocks: 11.20 GiB, fits'."""
    return [
        "try         "
        + " ".join(f"--config.{key}={value}" for key, value in row["changes"].items())
        + f": {row['peak'] / chips.GIB:.2f} GiB, {'fits' if row['fits'] else 'too much as well'}"
        for row in report.get("remedies", ())
    ]


if __name__ == "__main__":
    run(main, define_flags)
