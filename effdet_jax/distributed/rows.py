"""Image rows split over devices: the mesh axis 'spatial', and what its presence changes.

A function traced below `jax.sharding.use_abstract_mesh(mesh.abstract_mesh)` with a 'spatial' axis
keeps the rows of its feature maps on the devices of that axis. Without one, nothing here does a
thing: layers need not know whether they are sharded.
"""

import math
from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

BATCH_AXES = ("data", "fsdp")  # Both split the batch; 'fsdp' splits parameters besides.
SPATIAL_AXIS = "spatial"
MIN_ROWS = 2  # Of a shard.


def spatial_shards() -> int:
    """Over how many devices the rows of an image are split where this is traced."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(SPATIAL_AXIS, 1)


def splits_rows(rows: int, shards: int) -> bool:
    """Whether a feature map of so many rows is kept split; if not, every device has it whole.

    With one row per shard the kernel gradient of a stride-2 convolution comes out wrong (jax 0.7 to
    0.12, Shardy's propagation of uneven shapes), and rows that don't divide are gathered anyhow.
    """
    return rows % shards == 0 and rows // shards >= MIN_ROWS


def split_rows(x: Shaped[Array, "B H *rest"]) -> Shaped[Array, "B H *rest"]:
    """`x` with its rows over 'spatial', or gathered where they are too few: see `splits_rows`."""
    shards = spatial_shards()
    if shards == 1:
        return x
    rows = SPATIAL_AXIS if splits_rows(x.shape[1], shards) else None
    mesh = jax.sharding.get_abstract_mesh()
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES, rows)))


def sum_over_batch(function: Callable[..., Array], *arrays: Shaped[Array, "B ..."]) -> Array:
    """`function(*arrays)`, a sum over images, where each device sums its own: none is gathered.

    Left to itself a function that takes images one by one has all of them on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if math.prod(dict(mesh.shape).get(axis, 1) for axis in BATCH_AXES) == 1:
        return function(*arrays)
    images = PartitionSpec(BATCH_AXES)
    return jax.shard_map(
        lambda *arrays: lax.psum(function(*arrays), BATCH_AXES),
        in_specs=(images,) * len(arrays),
        out_specs=PartitionSpec(),
        check_vma=False,  # A loop's sum starts from zeros that are the same everywhere.
    )(*arrays)
