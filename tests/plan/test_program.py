import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from effdet_jax.plan.hlo import Collective
from effdet_jax.plan.program import Program, inspect, inspect_dump, out_of_memory


def test_a_compiled_program_says_the_same():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    weights = jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=whole)
    images = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=split)
    grad = jax.jit(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), out_shardings=whole)
    program = inspect(grad.lower(weights, images).compile())
    (row,) = program.collectives
    assert (row.kind, row.count, row.bytes) == ("all-reduce", 1, 4 * 15)
    assert program.fits and program.complete
    # Weights, two images, their product's gradient or the weights'.
    assert 4 * (15 + 6) < program.peak < 400
    # Two products of 2 · 2 · 3 · 5, and little else.
    assert 120 <= program.flops < 200
    assert Program.from_dict(program.to_dict()) == program


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


def test_a_dump_says_it_before_there_is_machine_code():
    hlo = (
        "ENTRY %main (p: f32[8,128]) -> f32[8,128] {\n"
        "  %p = f32[8,128]{1,0:T(8,128)} parameter(0)\n"
        "  ROOT %r = f32[8,128]{1,0:T(8,128)} all-reduce(%p), to_apply=%add\n}\n"
    )
    memory = (
        "Memory Space: smem (color=2)\nTotal bytes: 7 (7B)\n"
        "Memory Space: default (color=0)\nTotal bytes: 8192 (8.0KiB)\n"
    )
    program = inspect_dump(hlo, memory)
    assert program.peak == 8192 and program.traffic == 2 * 4096 and not program.complete
    assert program.collectives == (Collective("all-reduce", 0, 1, 4096, 4096),)
