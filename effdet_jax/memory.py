"""The C library's allocator, on a CPU."""

import ctypes
import sys

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
TOP_PAD = 256 * 2**20


def keep_memory() -> bool:
    """Lets this process keep the memory it frees, for its next run of a network; once, at the start.

    XLA takes its buffers anew for every run. By default glibc gives large ones back to the system,
    which then fills the same pages with zeros again, a sixth of the time of a D0 on a CPU. The
    process never shrinks afterwards: right for a predictor, too much for a training, whose compiler
    takes gigabytes (`launch/cpu.sh` uses huge pages instead).

    Returns:
      Whether there was something to set: False where the C library isn't glibc.
    """
    library = _glibc()
    if library is None:
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: TOP_PAD, M_ARENA_MAX: 1}
    return sum(library.mallopt(name, value) for name, value in settings.items()) == len(settings)


def give_back() -> None:
    """Returns memory that is free to the system: XLA's compiler leaves some 3 GB of it."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
