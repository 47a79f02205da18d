import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from effdet_jax.memory import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype = library.memset.restype = ctypes.c_void_p
size = 2**27
def use():
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(size)))
    library.memset(block, 1, ctypes.c_size_t(size))
    library.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


LEFT_BEHIND = """
from effdet_jax.memory import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = [bytearray(50_000) for _ in range(4000)]
pin = bytearray(50_000)  # Above them: what is free below isn't at the end of the heap.
del blocks
before = resident()
give_back()
print(before - resident())
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")


@linux
def test_memory_that_is_free_goes_back_to_the_system():
    assert int(subprocess.check_output([sys.executable, "-c", LEFT_BEHIND])) > 1.5e8


@linux
def test_memory_that_was_freed_is_used_again_without_page_faults():
    def faults(how):
        return int(subprocess.check_output([sys.executable, "-c", PROGRAM, how]))

    # 128 MiB: 32768 pages of 4 KiB, or 64 of 2 MiB where the system makes them huge.
    assert faults("kept") < 10
    assert faults("default") >= 60
