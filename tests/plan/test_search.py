import pytest

from effdet_jax.plan.program import Program
from effdet_jax.plan.search import SIZES, largest_fitting

GIB = 2**30


def compiler(state: float, per_image: float, memory: float, tried: list[int]):
    def compile(size: int) -> Program:
        tried.append(size)
        peak = int(state + per_image * size)
        return Program(peak, error="" if peak <= memory else "out of memory")

    return compile


def test_sizes_grow_by_a_third_or_a_half():
    assert SIZES[:10] == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) and SIZES[-1] == 1024


@pytest.mark.parametrize(
    ("per_image", "largest"),
    # 15 GiB beside the state: 15 images of 1 GiB, so 12; 60 of 1/4 GiB, so 48; …
    [(GIB, 12), (GIB / 4, 48), (4 * GIB, 3), (15 * GIB, 1), (GIB / 100, 1024), (16 * GIB, 0)],
)
def test_the_largest_that_fits_is_found_in_few_compilations(per_image, largest):
    tried = []
    size, programs = largest_fitting(compiler(GIB, per_image, 16 * GIB, tried), 16 * GIB)
    assert size == largest
    assert len(tried) == len(set(tried)) <= 5 and set(programs) == set(tried)
    if size:
        assert programs[size].fits
    if size < 1024:
        next_larger = SIZES[SIZES.index(size) + 1] if size else 1
        assert not programs[next_larger].fits  # It has been tried, not only computed.


def test_compilers_that_make_room_are_asked_for_more_than_proportion_says():
    tried = []

    def compile(size: int) -> Program:
        tried.append(size)
        peaks = {96: 15.0, 128: 16.1, 192: 27.7}  # D0 on a v5e, as its compiler had it.
        return Program(int(peaks[size] * 1e9), error="out of memory" if size == 192 else "")

    assert largest_fitting(compile, 16.9e9, first=119)[0] == 128
    assert tried == [96, 192, 128]
