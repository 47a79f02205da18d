"""A device that runs out of memory: the compiler's words as a message with what to type."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

import jax

from effdet_jax.errors import UserError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DeviceMemoryError(UserError):
    """A program needs more memory than a device has; the message says how much and what would fit."""


@contextlib.contextmanager
def memory_explained(advice: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Within it, running out of memory is a `DeviceMemoryError`.

    Args:
      advice: lines that say what to type; asked for only then.

    Raises:
      DeviceMemoryError: when compiling or running ran out of a device's memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "Out of memory" not in text:
            raise
        raise DeviceMemoryError("\n".join([shortage(text), *advice()])) from None


def shortage(message: str) -> str:
    """'out of memory: …' with the numbers in XLA's message and of this device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    has = f"; a device has {gigabytes(stats['bytes_limit'])}" if stats.get("bytes_limit") else ""
    # TPU's compiler; the allocators of GPUs and CPUs.
    if found := re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message):
        needed, limit = (float(found[number]) * _UNITS[found[number + 1]] for number in (1, 3))
        return f"out of memory: {gigabytes(needed)} needed of {gigabytes(limit)} on a device"
    if found := re.search(r"allocat\w* (?:of )?([\d.]+) ?([KMGT]?)i?B?(?:ytes?)?\b", message):
        asked = float(found[1]) * _UNITS[found[2]]
        return f"out of memory: {gigabytes(asked)} more were asked for at once{has}"
    return f"out of memory{has}: {message.splitlines()[0][:200]}"


def gigabytes(size: float) -> str:
    """'1.5 GB'."""
    return f"{size / 2**30:.1f} GB" if size >= 0.1 * 2**30 else f"{size / 2**20:.0f} MB"
