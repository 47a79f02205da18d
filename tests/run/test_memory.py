import jax
import pytest

from effdet_jax.run.memory import DeviceMemoryError, gigabytes, memory_explained, shortage

TPU = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 19.41G of 15.75G hbm. Exceeded"
GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes."
GPU_UNITS = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB."
CPU = "RESOURCE_EXHAUSTED: Out of memory allocating 2147483648 bytes."


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (TPU, "out of memory: 19.4 GB needed of 15.8 GB on a device"),
        (GPU, "out of memory: 12.0 GB more were asked for at once"),
        (GPU_UNITS, "out of memory: 1.5 GB more were asked for at once"),
        (CPU, "out of memory: 2.0 GB more were asked for at once"),
    ],
)
def test_xla_s_numbers_are_read(message, text):
    assert shortage(message).startswith(text)


def test_a_program_that_does_not_fit_ends_with_what_would():
    def advice():
        yield "--config.remat=blocks: 3.1 GB, fits"

    with (
        pytest.raises(
            DeviceMemoryError, match="12.0 GB more.*\n--config.remat=blocks: 3.1 GB, fits"
        ),
        memory_explained(advice),
    ):
        raise jax.errors.JaxRuntimeError(GPU)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory_explained(advice):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_sizes():
    assert gigabytes(3 * 2**29) == "1.5 GB" and gigabytes(5 * 2**20) == "5 MB"
