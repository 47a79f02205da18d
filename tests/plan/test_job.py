import jax
import pytest

from effdet_jax.config import ConfigError
from effdet_jax.plan.job import build
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def built():
    return build(tiny_config(batch_size=16), jax.devices())


def test_state_is_counted_as_it_is_sharded(built):
    _step, (state, _batch), job = built
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats))
    assert job.state["parameters"] == 4 * parameters
    assert job.state["optimizer"] == 4 * parameters  # Momentum.
    assert job.state["averages"] == 4 * (parameters + 2 * statistics)


def test_fsdp_splits_what_a_device_holds(built):
    config = tiny_config(batch_size=16, **{"mesh.fsdp": 8})
    split, whole = build(config, jax.devices())[2], built[2]
    # Tensors of fewer than 4096 elements stay whole.
    assert whole.state["parameters"] / 8 < split.state["parameters"] < whole.state["parameters"]
    assert split.flops == whole.flops


def test_an_image_is_what_the_step_reads_of_it(built):
    job = built[2]
    # 64 × 64 × 3 bytes, 100 boxes and labels, 8×8 flags, two sides of the content, one flag.
    assert job.image_bytes == 64 * 64 * 3 + 100 * (16 + 4) + 8 * 8 + 8 + 1
    assert (job.batch_size, job.image_size, job.dtype) == (16, (64, 64), "float32")


def test_the_step_takes_the_shapes_it_is_given_with(built):
    step, arguments, _job = built
    state, metrics = jax.eval_shape(step, *arguments)
    assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(lambda x: x.shape, arguments[0])
    assert metrics["loss/total"].shape == ()


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ConfigError):
        build(tiny_config(batch_size=9), jax.devices())


def test_masks_are_in_a_batch_where_they_are_learned():
    config = tiny_config(batch_size=16, **{"model.objective": "segment"})
    _step, (_state, batch), job = build(config, jax.devices())
    assert batch["masks"].shape == (16, 64, 64) and batch["masks"].dtype == "uint8"
    assert job.image_bytes >= 64 * 64 * 4
