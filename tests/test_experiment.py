import jax
import jax.numpy as jnp
import pytest

from effdet_jax.classes import COCO
from effdet_jax.config import ConfigError, get_config
from effdet_jax.experiment import mesh_of, model_of, plan_of


def make_config(**changes):
    config = get_config()
    config.update_from_flattened_dict(changes)
    return config


def test_the_mesh_is_what_the_config_says():
    config = make_config(**{"mesh.fsdp": 2, "mesh.spatial": 2, "batch_size": 4})
    assert dict(mesh_of(config).shape) == {"data": 2, "fsdp": 2, "spatial": 2}
    assert mesh_of(config, jax.devices()[:4]).shape["data"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 doesn't divide by the 8 devices; use 8 or 16"),
        ({"mesh.fsdp": 16}, "8 devices don't divide by fsdp 16"),
        ({"microbatches": 3}, "the 8 devices × 3 microbatches; use 120 or 144"),
    ],
)
def test_what_does_not_divide_is_a_config_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        mesh_of(make_config(**changes))


def test_image_rows_must_divide_over_the_spatial_axis():
    config = make_config(**{"mesh.spatial": 3, "model.image_size": "512x640"})
    with pytest.raises(ConfigError, match="512 image rows don't divide by mesh.spatial 3.*513x640"):
        model_of(config, COCO)


def test_the_model_computes_as_asked():
    config = make_config(remat="blocks")
    model = model_of(config, COCO)
    assert (model.remat, model.dtype, model.spec.num_classes) == ("blocks", jnp.float32, 90)
    assert model_of(config, COCO, jnp.bfloat16).dtype == jnp.bfloat16


def test_a_run_without_steps_is_a_config_error():
    with pytest.raises(ConfigError, match="0.001 epochs of 100 images in batches of 128 are zero"):
        plan_of(make_config(num_epochs=0.001), 100)
