"""The device mesh and where arrays live on it."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices with the one axis 'data', over which batches are split.

    Raises:
      ValueError: the global batch doesn't divide evenly over the devices.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        below = batch_size - batch_size % len(devices)
        nearest = " or ".join(str(n) for n in (below, below + len(devices)) if n)
        raise ValueError(
            f"batch_size {batch_size} doesn't divide by the {len(devices)} devices; use {nearest}: "
            f"--config.batch_size={below or len(devices)}"
        )
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: parameters, optimizer state."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis over 'data': everything in a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays on the mesh."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
