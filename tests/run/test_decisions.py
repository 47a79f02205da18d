import pytest

from effdet_jax.config import OPEN, flatten
from effdet_jax.run.decisions import Decision, Facts, decide
from tests.tiny import changed_config


def decided(facts, **changes):
    """{knob: value} of the decisions where all is open but `changes`."""
    config = changed_config(**{**OPEN, "optim.name": "adamw", **changes})
    return {made.knob: made.value for made in decide(flatten(config), facts)}


def test_a_small_set_gets_many_passes_in_small_batches():
    made = decided(Facts(200, init="backbone"))
    assert made == {
        "batch_size": 8,
        "num_epochs": 30.0,
        "bn": "train",
        "optim.learning_rate": 0.016,
        "optim.warmup_epochs": 1.5,
        "optim.ema_decay": 0.9867,  # 750 steps: 1 - 10 / 750.
        "eval.every_epochs": 3.75,
    }


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(200), {"num_epochs": 75.0}),  # From scratch: 30 × 2.5.
        (Facts(50, init="backbone"), {"num_epochs": 60.0}),  # 30 × √(200 / 50).
        (Facts(10, init="detector"), {"num_epochs": 100.0}),  # Never more.
        (Facts(118_000, init="backbone"), {"batch_size": 16, "num_epochs": 12.0}),
        (Facts(200, num_devices=6), {"batch_size": 12}),  # It must divide.
        (Facts(118_000, init="backbone"), {"optim.ema_decay": 0.9998}),
    ],
)
def test_decisions_suit_size_devices_and_weights(facts, expected):
    made = decided(facts)
    assert {knob: made[knob] for knob in expected} == expected


def test_what_was_asked_for_is_not_decided_and_counts():
    made = decided(Facts(200, init="backbone"), batch_size=4, num_epochs=10.0)
    assert "batch_size" not in made and "num_epochs" not in made
    assert made["optim.warmup_epochs"] == 0.5
    assert made["bn"] == "frozen_backbone"  # Statistics of 4 images are too noisy.
    assert decided(Facts(200, init="detector"), batch_size=4)["bn"] == "frozen"
    assert decided(Facts(200), batch_size=4)["bn"] == "train"  # There is nothing to keep.
    assert decided(Facts(200, init="detector"), microbatches=4)["bn"] == "frozen"
    assert decided(Facts(200), **{"optim.name": "sgd"})["optim.learning_rate"] == 0.08


def test_nothing_open_decides_nothing():
    assert decide(flatten(changed_config()), Facts(200)) == []


def test_a_decision_says_its_reason():
    assert Decision("num_epochs", 40.0, "200 images").line() == "num_epochs 40: 200 images"
    assert Decision("bn", "train", "8 images").line() == "bn train: 8 images"
