"""`test_train.py` sees the lines of a low AP in a run, and a run on a few images."""

import jax
import pytest

from effdet_jax import advice
from effdet_jax.classes import COCO
from effdet_jax.config import ConfigError, validate
from effdet_jax.experiment import Experiment
from effdet_jax.plan.report import Target
from tests.tiny import tiny_config

GIB = 2**30


def test_a_run_on_few_images_has_them_all_in_every_batch_and_draws_nothing():
    given = tiny_config(**{"augment.ops": ("flip",), "batch_size": 128, "seed": 3})
    config = advice.overfit_config(given, 5)
    validate(config)
    assert config.data.overfit == 5 and config.batch_size == 8 == jax.device_count()
    assert config.augment.ops == () and config.model.drop_connect == 0.0
    assert (config.seed, config.model.backbone) == (3, "efficientnet-tiny")  # As they were.
    assert given.batch_size == 128 and given.data.overfit == 0
    made = Experiment.from_config(config, class_names=COCO, num_examples=5)
    assert made.schedule.total_steps == 100 and made.schedule.warmup_steps == 5
    assert made.peak_learning_rate == pytest.approx(0.003)
    assert float(made.learning_rate(100)) < 1e-4


def test_both_splits_are_the_same_few_images():
    config = tiny_config(**{"data.source": "shapes", "data.shapes_size": 64, "data.overfit": 3})
    made = Experiment.from_config(config)
    train, val = made.train_source, made.val_source
    assert len(train) == len(val) == 3
    assert (train[1].image == val[1].image).all()


@pytest.mark.parametrize(
    ("ap", "ap50", "learned", "said"),
    [
        (0.97, 1.0, True, "set-up and data are right: AP 0.97, AP50 1.00 on 8 images"),
        (0.45, 0.92, True, "set-up and data are right"),
        (0.2, 0.5, False, "it learns, but not all: AP 0.20, AP50 0.50 on 8 images. Objects may"),
        (0.0, 0.01, False, "set-up or data are wrong: AP 0.00, AP50 0.01 on 8 images after 100"),
    ],
)
def test_verdicts(ap, ap50, learned, said):
    metrics = {"eval/AP": ap, "eval/AP50": ap50}
    assert advice.is_learned(metrics) is learned
    assert advice.overfit_verdict(metrics, 8).startswith(said)


def test_a_classifier_has_learned_by_its_accuracy():
    assert advice.is_learned({"eval/top1": 0.9}) and not advice.is_learned({"eval/top1": 0.8})
    said = advice.overfit_verdict({"eval/top1": 1.0, "eval/top5": 1.0}, 8)
    assert said.startswith("set-up and data are right: top1 1.00 on 8 images")


class Planner:
    """Says of every change what it takes: 9 GiB, 5 with a half batch, and half of that with remat."""

    def __init__(self, target):
        self._limit = target.memory

    def plan(self, config):
        if config.microbatches > 2:
            raise ConfigError("it doesn't divide")
        peak = (5 if config.batch_size == 8 else 9) * GIB
        peak = peak / 2 if config.remat == "blocks" else peak
        return {"fits": peak <= self._limit, "memory": {"peak": peak}}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (
            6,
            [
                "--config.remat=blocks: 4.5 GB, fits",
                "--config.microbatches=2: 9.0 GB, too much",
                "--config.batch_size=8: 5.0 GB, fits",
            ],
        ),
        (
            2,
            [
                "--config.remat=blocks: 4.5 GB, too much",
                "--config.microbatches=2: 9.0 GB, too much",
                "--config.batch_size=8: 5.0 GB, too much",
                "--config.batch_size=8 --config.remat=blocks: 2.5 GB, too much",
                "Smaller images take less: --config.model.image_size=…; or a smaller model",
            ],
        ),
        (0, ["Try --config.batch_size=8, --config.remat=blocks or --config.microbatches=2"]),
    ],
)
def test_what_would_fit_is_asked_of_the_compiler(monkeypatch, memory, expected):
    monkeypatch.setattr(advice, "Planner", Planner)
    monkeypatch.setattr(advice, "find_target", lambda _: Target("gpu", 8, memory * GIB))
    made = Experiment.from_config(tiny_config(batch_size=16), class_names=COCO, num_examples=5)
    assert list(advice.what_fits(made)) == expected
