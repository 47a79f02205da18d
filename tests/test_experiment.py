import jax
import jax.numpy as jnp
import pytest

from effdet_jax.config import ConfigError, flatten, get_config
from effdet_jax.experiment import kept_step_of, mesh_of, model_of, plan_of
from effdet_jax.labels import COCO
from tests.conftest import jax_settings


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


# What a training step is the same for. All else of a config is another step's.
SAME_STEP = (
    "augment.",
    "checkpoint_every_epochs",
    "data.",
    "eval.",
    "init",
    "keep_checkpoints",
    "log_every_steps",
    "max_bad_steps",
)
OTHER_VALUES = {
    "batch_size": 64,
    "data.strict": True,
    "dtype": "bfloat16",
    "mesh.fsdp": 2,
    "mesh.spatial": 2,
    "microbatches": 2,
    "model.backbone": "efficientnet-b1",
    "model.fusion": "sum",
    "model.image_size": "256",
    "model.name": "efficientdet-d1",
    "optim.drop_epochs": (1.0, 2.0),
    "optim.name": "adamw",
    "optim.schedule": "stepwise",
    "loss.iou_kind": "giou",
    "remat": "blocks",
}


@pytest.mark.parametrize("name", sorted(flatten(get_config())))
def test_a_kept_step_is_that_of_what_the_step_follows_from(name, tmp_path):
    def path(config):
        model, mesh = model_of(config, COCO), mesh_of(config)
        return kept_step_of(config, model, plan_of(config, 1000), mesh).path

    value = flatten(get_config())[name]
    if name in OTHER_VALUES:
        different = OTHER_VALUES[name]
    else:
        different = f"{value}x" if isinstance(value, str) else value + 1
    with jax_settings(jax_compilation_cache_dir=str(tmp_path)):
        same = path(get_config()) == path(make_config(**{name: different}))
    assert same == (name.startswith(SAME_STEP) and name != "data.max_boxes")
