"""Every operation with images, or their rows, split over devices equals itself on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.distributed import rows as image_rows
from effdet_jax.distributed.mesh import batch_sharding, make_mesh
from effdet_jax.kernels import convolution as kernels
from effdet_jax.ops import convolution, resample
from tests.conftest import enable_x64
from tests.quick import QUICK


@pytest.fixture
def accelerator_forms(monkeypatch):
    """Convolutions and poolings as a TPU or GPU gets them: XLA's own, not slices."""
    jax.clear_caches()  # What has been traced isn't traced again.
    for module in (convolution, resample, kernels):
        monkeypatch.setattr(module, "by_platform", lambda *arrays, default, **_: default(*arrays))
    yield
    jax.clear_caches()


def all_operations(x, kernels):
    """Sums of every operation's result, so that every gradient depends on every pixel."""
    height, width = x.shape[1:3]
    results = {
        "dense stride 2": convolution.dense_conv(x, kernels["dense"], 2, "same"),
        "depthwise 3": convolution.depthwise_conv(x, kernels["depthwise_3"], 1),
        "depthwise 5 stride 2": convolution.depthwise_conv(x, kernels["depthwise_5"], 2),
        "pointwise": convolution.pointwise_conv(x, kernels["dense"][0, 0]),
        "max-pool": resample.max_pool(x, ((height + 1) // 2, (width + 1) // 2)),
        "upsample": resample.upsample(x, (2 * height, 2 * width)),
        "upsample to odd": resample.upsample(x, (2 * height - 1, 2 * width - 1)),
    }
    return {name: jnp.sum(jnp.sin(result)) for name, result in results.items()}


def assert_same_on(mesh, x, kernels):
    """Values and gradients of all operations on `mesh` as on one device; returns the program."""

    def values_and_grads(x, kernels):
        values, pull = jax.vjp(all_operations, x, kernels)
        return values, pull(jax.tree.map(jnp.ones_like, values))

    def on_mesh(x, kernels):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return values_and_grads(image_rows.split_rows(x), kernels)

    with enable_x64(True):
        split = jax.jit(on_mesh, in_shardings=(batch_sharding(mesh, "image"), None))
        compiled = split.lower(x, kernels).compile(compiler_options=QUICK)
        found = compiled(jax.device_put(x, batch_sharding(mesh, "image")), kernels)
        expected = jax.jit(values_and_grads)(x, kernels)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max()),
        found,
        expected,
    )
    return compiled.as_text()


def random_input(rng, rows):
    kernels = {
        "dense": rng.normal(size=(3, 3, 4, 4)),
        "depthwise_3": rng.normal(size=(3, 3, 1, 4)),
        "depthwise_5": rng.normal(size=(5, 5, 1, 4)),
    }
    return rng.normal(size=(8, rows, 8, 4)), kernels


@pytest.mark.parametrize(("shards", "rows"), [(2, 8), (4, 24), (8, 16), (8, 64)])
def test_values_and_gradients_are_those_of_one_device(accelerator_forms, shards, rows, rng):
    program = assert_same_on(make_mesh(8, spatial=shards), *random_input(rng, rows))
    assert "collective-permute" in program  # Neighbours exchange rows at their edges.


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_cpu_gathers_no_images_for_the_gradients_of_kernels(fsdp, rng):
    program = assert_same_on(make_mesh(8, fsdp=fsdp), *random_input(rng, 12))
    assert "all-reduce" in program and "all-gather" not in program


@pytest.mark.parametrize(
    ("rows", "shards", "split"), [(16, 8, True), (8, 8, False), (20, 8, False), (4, 2, True)]
)
def test_levels_with_too_few_rows_or_that_do_not_divide_are_whole(rows, shards, split):
    assert image_rows.splits_rows(rows, shards) == split


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((1, 4, 4, 1))
    assert image_rows.spatial_shards() == 1 and image_rows.split_rows(x) is x
