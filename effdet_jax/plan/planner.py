"""Compiles configs for one target: as they are, with the largest batch, with what would fit."""

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import COCO
from effdet_jax.experiment import Experiment
from effdet_jax.model.counts import summarize
from effdet_jax.plan import aot, chips
from effdet_jax.plan.job import Job, build
from effdet_jax.plan.program import Program
from effdet_jax.plan.report import Target, make_report
from effdet_jax.plan.search import largest_fitting

# Peak memory of a step per byte that the convolutions of a forward pass write: the search for the
# largest batch begins with it. 1.3 to 2.6 for the family on TPUs, less as memory gets short.
PEAK_PER_OUTPUT_BYTE = 1.5
# What makes a program smaller, from what costs least.
REMEDIES = (
    {"remat": "blocks"},
    {"remat": "full"},
    {"microbatches": 2},
    {"microbatches": 4},
    {"mesh.spatial": 2},
    {"mesh.spatial": 4},
)


def find_target(topology: str) -> Target:
    """The slice of that name, or this machine's devices for ''.

    Raises:
      TopologyError: there is no such slice.
    """
    if topology:
        slice_ = chips.parse_topology(topology)
        memory = slice_.chip.hbm // slice_.chip.devices - chips.RESERVED
        devices = slice_.chips * slice_.chip.devices
        return Target(slice_.name, devices, memory, slice_)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    return Target(device.device_kind, jax.device_count(), memory)


class Planner:
    """Plans for one target; a config is compiled once."""

    def __init__(self, target: Target):
        self._target = target
        self._compiled: dict[str, tuple[Job, Program]] = {}

    def plan(self, config: ConfigDict) -> dict[str, Any]:
        """The report of a config as it is.

        Raises:
          ConfigError: it can't be run on so many devices.
        """
        job, program = self._compile(config)
        versions = {"jax": jax.__version__, "libtpu": aot.libtpu_version()}
        return make_report(job, self._target, program) | {"versions": versions}

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
        # 'auto' is bfloat16: CPUs don't say what memory they have.
        dtype = np.dtype("float32" if config.dtype == "float32" else jnp.bfloat16)
        spec = Experiment.from_config(config, class_names=COCO).spec
        outputs = summarize(spec)["outputs"]["total"] * dtype.itemsize
        first = target.memory * spatial / (PEAK_PER_OUTPUT_BYTE * outputs)

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
        key, target = config.to_json(), self._target
        if key not in self._compiled:
            make = functools.partial(build, config)
            what = f"compiling {config.model.name}, batch {config.batch_size}, for {target.name}"
            with aot.progress(what):
                self._compiled[key] = (
                    aot.compile_ahead(make, target.topology)
                    if target.topology
                    else aot.compile_here(make, jax.devices())
                )
        job, program = self._compiled[key]
        if program.fits and 0 < target.memory < program.peak:
            # libtpu is stopped before it would refuse it, compilers for GPUs never do.
            program = dataclasses.replace(program, error="out of memory")
        return job, program


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with knobs by their full names: {'optim.momentum': 0.8}."""
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(dict(changes))
    return changed
