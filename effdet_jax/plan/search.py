"""The largest batch that fits, in few compilations: each costs minutes."""

import bisect
from collections.abc import Callable, Mapping

from effdet_jax.plan.program import Program

# Images per device that are tried: 1, 2, 3, 4, 6, 8, 12, 16, … 768, 1024.
SIZES = (1, *sorted([2**power for power in range(1, 11)] + [3 * 2**power for power in range(9)]))


def largest_fitting(
    compile: Callable[[int], Program], memory: float, *, first: float = 4
) -> tuple[int, Mapping[int, Program]]:
    """The largest of `SIZES` whose program fits, 0 if none does, and the programs that were tried.

    Memory grows in proportion to the batch, nearly: the next size to try is the largest that would
    fit by the last program's memory per image. Compilers make room where memory gets short, so if
    that is no larger than what fits already, two sizes on is tried. The answer's next larger size
    has been refused.

    Args:
      compile: images per device → program.
      memory: bytes of a device.
      first: images to begin with; the next smaller size if it is none.
    """
    tried: dict[int, Program] = {}
    fits, refused = -1, len(SIZES)
    guess = bisect.bisect_right(SIZES, first) - 1
    while refused - fits > 1:
        probe = min(max(guess, fits + 1), refused - 1)
        size = SIZES[probe]
        program = tried[size] = compile(size)
        if program.fits:
            fits = probe
        else:
            refused = probe
        guess = bisect.bisect_right(SIZES, memory * size / program.peak) - 1
        if program.fits and guess <= fits:
            guess = fits + 2
    return (SIZES[fits] if fits >= 0 else 0), tried
