"""Which form of an op runs: the one for CPUs, or the plain one."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from effdet_jax.distributed.rows import spatial_shards


def by_platform(
    *arrays: Array,
    cpu: Callable[..., Any],
    default: Callable[..., Any],
    split_cpu: Callable[..., Any] | None = None,
) -> Any:
    """`cpu(*arrays)` on a CPU, `default(*arrays)` elsewhere.

    A mesh fixes the choice while tracing, since its devices are known. Without a mesh
    `lax.platform_dependent` chooses when the program is lowered. It can't choose under a mesh: XLA
    makes it a conditional of one branch, and on CPUs a collective inside of a conditional isn't
    ordered against the collectives outside, so that processes may read one another's wrong data.

    Args:
      split_cpu: replaces `cpu` where rows are split over devices and `cpu` would gather them.
    """
    if split_cpu is not None and spatial_shards() > 1:
        cpu = split_cpu
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return lax.platform_dependent(*arrays, cpu=cpu, default=default)
    return (cpu if device.device_kind == "cpu" else default)(*arrays)
