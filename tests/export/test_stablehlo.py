import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from effdet_jax.export.stablehlo import run, write
from effdet_jax.export.verify import ExportError

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)


def function(image, content):
    """A convolution, a choice by platform, and the content's rows."""
    x = lax.conv_general_dilated(
        image.astype(jnp.float32),
        KERNEL,
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    offset = lax.platform_dependent(cpu=lambda: 1.0, default=lambda: 2.0)
    return {"x": x + offset, "rows": content[:, 0]}


def test_written_and_run_elsewhere_has_equal_bits(tmp_path, rng):
    path = str(tmp_path / "f.stablehlo")
    notes = write(path, function, (8, 12))
    assert notes["platforms"] == ["cpu", "cuda", "tpu"]
    batches = [
        {
            "image": rng.integers(0, 255, (number, 8, 12, 3), dtype=np.uint8),
            "content": np.full((number, 2), number, np.int32),
        }
        for number in (1, 3)
    ]
    for batch, found in zip(batches, run(path, batches), strict=True):
        expected = jax.jit(function)(batch["image"], batch["content"])
        assert found["x"].tobytes() == np.asarray(expected["x"]).tobytes()
        np.testing.assert_array_equal(found["rows"], batch["content"][:, 0])


def test_images_of_another_size_are_refused(tmp_path):
    path = str(tmp_path / "f.stablehlo")
    write(path, function, (8, 12))
    with pytest.raises(ExportError, match="f.stablehlo' doesn't run: "):
        run(path, [{"image": np.zeros((1, 9, 12, 3), np.uint8), "content": np.zeros((1, 2), int)}])
