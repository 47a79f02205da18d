import pytest

from effdet_jax.config import flatten, get_config
from effdet_jax.knobs import help_on_key, knob_lines, nearest_key


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.learning_rat", "optim.learning_rate"),
        ("learning_rate", "optim.learning_rate"),
        ("batchsize", "batch_size"),
        ("optim.batch_size", "batch_size"),
        ("model.fusoin", "model.fusion"),
        ("patience", "eval.patience"),
        # What isn't alike isn't suggested.
        ("num_classes", ""),
        ("resume", ""),
        ("pretrained", ""),
        ("weights_decay_of_mine", ""),
    ],
)
def test_the_nearest_key_is_what_was_meant(typed, meant):
    assert nearest_key(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("lr", "Here it is --config.optim.learning_rate=…"),
        ("optim.lr", "Here it is --config.optim.learning_rate=…"),
        ("train.IMGSZ", "Here it is --config.model.image_size=…"),
        ("num-classes", "There is none: the classes and their number come from the data"),
        ("model.fusoin", "Did you mean --config.model.fusion?"),
        ("gibberish", "Every key is listed by: python -m effdet_jax.train --help"),
    ],
)
def test_help_on_an_unknown_key(typed, said):
    assert help_on_key(typed) == said


def test_every_knob_has_its_line_with_default_and_comment():
    lines = knob_lines()
    for key, value in flatten(get_config()).items():
        (line,) = (line for line in lines if line.startswith(f"  --config.{key}="))
        assert line.startswith(f"  --config.{key}={value!r}")
    assert any(line.endswith("  0 is off.") for line in lines if "ema_decay=0.9998" in line)
    assert any(line.startswith("--config.mesh.*: Devices = data × fsdp") for line in lines)
