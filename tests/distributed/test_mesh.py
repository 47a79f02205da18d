import jax
import jax.numpy as jnp
import pytest

from effdet_jax.distributed.mesh import check_rows, create_mesh, state_sharding


def test_batches_that_do_not_divide_are_refused_with_sizes_that_do():
    with pytest.raises(
        ValueError, match=r"batch_size 12 doesn't divide by the 8 devices; use 8 or 16"
    ):
        create_mesh(12)
    with pytest.raises(ValueError, match="use 8"):
        create_mesh(3)


def test_rows_that_do_not_divide_are_refused_with_sizes_that_do():
    check_rows((512, 640), 4)
    with pytest.raises(
        ValueError, match=r"512 image rows don't divide .* 3; .*=513x640\) or --conf"
    ):
        check_rows((512, 640), 3)


def test_large_tensors_are_split_over_fsdp_by_their_largest_axis():
    mesh = create_mesh(8, fsdp=4)
    leaves = {
        "pointwise": jax.ShapeDtypeStruct((1, 1, 64, 384), jnp.float32),
        "depthwise": jax.ShapeDtypeStruct((5, 5, 1, 1152), jnp.float32),
        "square": jax.ShapeDtypeStruct((1, 1, 64, 64), jnp.float32),
        "indivisible": jax.ShapeDtypeStruct((7, 7, 9, 27), jnp.float32),
        "small": jax.ShapeDtypeStruct((1152,), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {name: tuple(rule.spec) for name, rule in state_sharding(leaves, mesh).items()}
    assert specs == {
        "pointwise": (None, None, None, "fsdp"),
        "depthwise": (None, None, None, "fsdp"),
        "square": (None, None, None, "fsdp"),
        "indivisible": (),
        "small": (),
        "scalar": (),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fsdp": 3}, r"8 devices don't divide by fsdp 3 × spatial 1.* one of 1, 2, 4, 8"),
        ({"spatial": 4, "batch_size": 3}, r"the 8 devices / spatial 4; use 2 or 4"),
        ({"microbatches": 3}, r"batch_size 8 doesn't divide by the 8 devices × 3 micro.*use 24"),
    ],
)
def test_meshes_that_do_not_divide_are_refused_with_what_would(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_mesh(**{"batch_size": 8, **arguments})
