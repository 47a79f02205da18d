import inspect

import jax.numpy as jnp
import pytest

from effdet_jax import config as configs
from effdet_jax.config import ConfigError
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.detection.postprocess import detect
from effdet_jax.errors import UserError


def changed(**fields):
    config = configs.get_config()
    config.update_from_flattened_dict(fields)
    return config


def test_the_defaults_are_valid_and_plain():
    configs.validate(configs.get_config())
    plain = configs.plain(configs.get_config())
    assert plain["optim"]["drop_epochs"] == [200.0, 250.0]
    assert configs.flatten(plain)["optim.learning_rate"] == 0.08


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "float16"}, "--config.dtype='float16' isn't one of 'auto', 'float32'"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_epochs": 0.0}, "zero steps to train"),
        ({"num_steps": -3}, "num_steps=-3 must be at least 0"),
        ({"augment.scale_min": 3.0}, "scale_min 3.0 and scale_max 2.0 must be 0 < min ≤ max"),
        ({"augment.ops": ("flip", "mosaik")}, "augment.ops: 'mosaik' isn't one of 'flip', 'scale"),
    ],
)
def test_impossible_values_are_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        configs.validate(changed(**fields))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.learning_rat", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("batchsize", "batch_size"),
        ("optim.batch_size", "batch_size"),
        ("model.fusoin", "model.fusion"),
        ("epochs", "num_epochs"),
    ],
)
def test_the_nearest_key_is_what_was_meant(typed, meant):
    assert configs.nearest_key(typed) == meant


def test_sizes():
    assert configs.parse_size("512") == (512, 512)
    assert configs.parse_size("384x640") == (384, 640)
    for text in ("", "0", "12x", "axb", "1x2x3", "-5", "5.5"):
        with pytest.raises(ConfigError, match="isn't like '512' or '384x640'"):
            configs.parse_size(text)


def test_the_spec_is_the_variants_unless_changed():
    spec = configs.spec_of(changed(**{"model.name": "efficientdet-d3"}), 7)
    assert (spec.image_size, spec.num_classes, spec.anchor_scale) == ((896, 896), 7, 4.0)
    spec = configs.spec_of(
        changed(
            **{
                "model.image_size": "128x256",
                "model.fusion": "sum",
                "model.anchor_scale": 2.0,
                "model.drop_connect": 0.0,
            }
        ),
        7,
    )
    assert (spec.image_size, spec.fusion, spec.anchor_scale) == ((128, 256), "sum", 2.0)
    assert spec.survival_probability == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.name": "efficientnet-b0"}, "config.model: unknown model 'efficientnet-b0'"),
        ({"model.image_size": "64x96"}, "config.model: image_size 64×96 can't be"),
        ({"model.fusion": "mean"}, "config.model: .*'mean'"),
    ],
)
def test_models_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        configs.spec_of(changed(**fields), 3)


def test_the_source_is_opened_with_the_values_below_data():
    config = changed(**{"data.source": "shapes", "data.shapes_size": 64, "data.shapes_val": 5})
    source = configs.open_source(config, "val")
    assert len(source) == 5 and source[0].image.shape == (64, 64, 3)


def test_augmentations_are_made_from_the_values_below_augment():
    settings = configs.augment_settings(changed(**{"augment.ops": ("flip",)}), (64, 96))
    assert settings == AugmentSettings((64, 96), ops=("flip",))
    assert configs.augment_settings(configs.get_config(), (8, 8)) == AugmentSettings((8, 8))


def test_detect_options_are_keywords_of_detect():
    options = configs.detect_options(configs.get_config())
    assert options.keys() <= inspect.signature(detect).parameters.keys()
    assert options["method"] == "hard" and options["max_detections"] == 100


def test_computation_is_float32_on_a_cpu_unless_asked():
    assert configs.compute_dtype(configs.get_config()) == jnp.float32
    assert configs.compute_dtype(changed(dtype="bfloat16")) == jnp.bfloat16


def test_modes_of_a_config():
    assert configs.parse_arg(None, modes=("smoke",)) == ""
    assert configs.parse_arg("smoke", modes=("smoke",)) == "smoke"
    with pytest.raises(ConfigError, match="unknown config mode 'smok'; there are smoke"):
        configs.parse_arg("smok", modes=("smoke",))
