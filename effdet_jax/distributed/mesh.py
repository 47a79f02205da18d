"""The device mesh `data × fsdp × spatial`, and where arrays live on it.

'data' and 'fsdp' split the batch; 'fsdp' splits large parameters, their optimizer state and their
averages too; 'spatial' splits the rows of images and feature maps (see `ops.spatial`).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effdet_jax.distributed.rows import BATCH_AXES, SPATIAL_AXIS

AXES = (*BATCH_AXES, SPATIAL_AXIS)
MIN_SPLIT_SIZE = 4096  # Elements from which on a tensor is split over 'fsdp'.


def create_mesh(
    batch_size: int,
    *,
    fsdp: int = 1,
    spatial: int = 1,
    microbatches: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of all devices; the 'data' axis takes what `fsdp` and `spatial` leave.

    Devices are in the order of processes, 'spatial' innermost: the rows of one image stay on one
    host where they can, and every process has consecutive images of the batch.

    Args:
      batch_size: of all devices together.
      microbatches: parts the batch is computed in; each has images of every device.
      devices: all of all processes, if not given.

    Raises:
      ValueError: devices or batch don't divide; the message says what would.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    count, group = len(devices), fsdp * spatial
    if count % group:
        raise ValueError(
            f"{count} devices don't divide by fsdp {fsdp} × spatial {spatial}; their product must "
            f"be one of {_divisors(count)}: --config.mesh.fsdp=1 --config.mesh.spatial=1"
        )
    multiple = count // spatial * microbatches
    if batch_size % multiple:
        below = batch_size - batch_size % multiple
        nearest = " or ".join(str(n) for n in (below, below + multiple) if n)
        divided = f" / spatial {spatial}" if spatial > 1 else ""
        multiplied = f" × {microbatches} microbatches" if microbatches > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} doesn't divide by the {count} devices{divided}{multiplied}; "
            f"use {nearest}: --config.batch_size={below or multiple}"
        )
    local = count // len({device.process_index for device in devices})
    if local % spatial and spatial % local:
        raise ValueError(
            f"spatial {spatial} and the {local} devices of a process don't divide one another: "
            f"--config.mesh.spatial must be one of {_divisors(local)}, or a multiple of {local}"
        )
    return Mesh(np.array(devices).reshape(count // group, fsdp, spatial), AXES)


def check_rows(image_size: tuple[int, int], spatial: int):
    """Whether rows of images can be split.

    Raises:
      ValueError: they can't; the message says what could.
    """
    height, width = image_size
    if height % spatial:
        raise ValueError(
            f"{height} image rows don't divide by mesh.spatial {spatial}; use an image size that "
            f"does (--config.model.image_size={-(-height // spatial) * spatial}x{width}) or "
            "--config.mesh.spatial=1"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, name: str = "") -> NamedSharding:
    """Where the array `name` of a training batch lives: the batch over two axes, rows over one."""
    rows = (SPATIAL_AXIS,) if name == "image" else ()
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *rows))


def evaluation_sharding(mesh: Mesh) -> NamedSharding:
    """Whole images over all devices: evaluation has no need to split their rows."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_sharding(tree: Any, mesh: Mesh) -> Any:
    """A sharding per array of a state (or of its shapes): by size, whatever it is called.

    The largest axis that 'fsdp' divides is split (of equals the last); small tensors, and those
    without such an axis, are whole on every device.
    """
    shards = mesh.shape["fsdp"]

    def rule(leaf) -> NamedSharding:
        axes = [axis for axis, side in enumerate(leaf.shape) if side % shards == 0]
        if shards == 1 or math.prod(leaf.shape) < MIN_SPLIT_SIZE or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(rule, tree)


@functools.cache  # Asked for before every step; thousands of devices take a while to go through.
def process_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): this process reads part `index` of `count` equal parts of every batch."""
    shards = mesh.devices.reshape(-1, mesh.shape[SPATIAL_AXIS])  # [batch shards, spatial]
    mine = [
        row
        for row, devices in enumerate(shards)
        if any(device.process_index == jax.process_index() for device in devices)
    ]
    return mine[0] // len(mine), len(shards) // len(mine)


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a training batch as global arrays on the mesh."""
    _, count = process_share(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            batch_sharding(mesh, name), array, (count * len(array), *array.shape[1:])
        )
        for name, array in batch.items()
    }


def place_evaluation_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The same for evaluation, where every process has a part of its own; dicts may be nested."""
    sharding = evaluation_sharding(mesh)
    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(put, dict(batch))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, whole on every device."""
    return _replicator(mesh)(tree)


@functools.cache  # Else every call would compile it anew.
def _replicator(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
