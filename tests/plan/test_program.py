import pytest

from effdet_jax.plan.program import Program, out_of_memory, reported_peak


def test_a_program_fits_unless_the_compiler_refused_it():
    assert Program(4096).fits and not Program(4096, error="out of memory").fits


@pytest.mark.parametrize(
    "message",
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 19.50G of 15.75G hbm. Exceeded hbm capacity by 3.75G."
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (19.50G) exceeds available HBM (15.75G)."
        ),
    ],
)
def test_out_of_memory_is_read_from_what_libtpu_says(message):
    program = out_of_memory(message)
    assert not program.fits
    assert program.peak == 19.5 * 2**30 and program.limit == 15.75 * 2**30


def test_other_failures_are_none_of_memory():
    assert out_of_memory("INVALID_ARGUMENT: something else") is None


def test_the_peak_is_that_of_the_main_memory():
    report = (
        "Memory Space: smem (color=2)\nTotal bytes: 7 (7B)\n"
        "Memory Space: default (color=0)\nTotal bytes: 8192 (8.0KiB)\n"
    )
    assert reported_peak(report) == 8192
