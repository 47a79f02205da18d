import json

import pytest

from effdet_jax import config as configs
from effdet_jax.config import ConfigError
from tests.tiny import changed_config


def test_the_defaults_are_valid_and_plain():
    configs.validate(configs.get_config())
    plain = configs.plain(configs.get_config())
    assert plain["optim"]["drop_epochs"] == [200.0, 250.0]
    assert configs.flatten(plain)["optim.learning_rate"] == 0.08


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "float16"}, "--config.dtype='float16' isn't one of 'auto', 'float32'"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 0"),
        ({"num_epochs": 0.0}, "zero steps to train"),
        ({"num_steps": -3}, "num_steps=-3 must be at least 0"),
        ({"eval.protocol": "mine"}, "eval.protocol='mine' isn't one of 'default', 'published'"),
        ({"data.intensity": (5, 5)}, r"data.intensity=\(5, 5\) must be \(low, high\)"),
        ({"augment.scale_min": 3.0}, "scale_min 3.0 and scale_max 2.0 must be 0 < min ≤ max"),
    ],
)
def test_impossible_values_are_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        configs.validate(changed_config(**fields))


def test_sizes():
    assert configs.parse_size("512") == (512, 512)
    assert configs.parse_size("384x640") == (384, 640)
    for text in ("", "0", "12x", "axb", "1x2x3", "-5", "5.5"):
        with pytest.raises(ConfigError, match="isn't like '512' or '384x640'"):
            configs.parse_size(text)


def test_a_config_comes_back_from_plain_data():
    config = changed_config(**{"optim.drop_epochs": (1.0, 2.0), "batch_size": 7, "eval.sigma": 0.3})
    stored = json.loads(json.dumps(configs.plain(config)))
    again = configs.from_plain(stored)
    assert again.to_dict() == config.to_dict() and again.optim.drop_epochs == (1.0, 2.0)
    # Of another version: a knob it doesn't know is left out, a new one has its default.
    del stored["optim"]["momentum"]
    again = configs.from_plain(stored | {"of_old": 1})
    assert again.optim.momentum == 0.9 and "of_old" not in again


def test_a_protocol_replaces_what_was_set_before():
    config = changed_config(**{"eval.sigma": 0.3, "eval.every_epochs": 2.0})
    configs.set_protocol(config, "published")
    assert config.eval.protocol == "published" and config.eval.every_epochs == 2.0
    assert config.eval.sigma == configs.get_config().eval.sigma


def test_smoke_is_small_but_not_below_what_the_model_can_be():
    assert configs.coco("efficientdet-d0", "smoke").model.image_size == "128"
    config = configs.coco("efficientdet-d7x", "smoke", smoke_size="256")
    assert config.model.image_size == "256" and config.num_steps == 4


def test_modes_of_a_config():
    assert configs.parse_arg(None, modes=("smoke",)) == ""
    assert configs.parse_arg("smoke", modes=("smoke",)) == "smoke"
    with pytest.raises(ConfigError, match="unknown config mode 'smok'; there are smoke"):
        configs.parse_arg("smok", modes=("smoke",))
