"""The experiments in `configs/`: each loads, names a model that exists, and has a smoke mode."""

import pytest

from effdet_jax import config as configs
from effdet_jax.classes import COCO
from effdet_jax.cli import load_config
from effdet_jax.experiment import Experiment
from effdet_jax.spec import list_models
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_is_valid(path):
    for arg in (None, "smoke"):
        config = load_config(path.stem, arg)
        configs.validate(config)
        assert Experiment.from_config(config, class_names=COCO).spec.num_classes == 90
    assert config.data.source == "shapes" and config.num_steps == 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_how_it_is_run_and_is_short(path):
    text = path.read_text()
    assert f"--config=configs/{path.name}" in text and len(text.splitlines()) <= 40


def test_every_released_model_has_its_config():
    names = {path.stem: load_config(path.stem).model.name for path in FILES}
    for model in list_models():
        assert names[model.removeprefix("efficientdet-")] == model


def test_coco_configs_are_the_references_recipe():
    config = load_config("d7")
    assert (config.batch_size, config.optim.learning_rate, config.optim.ema_decay) == (
        128,
        0.08,
        0.9998,
    )
    assert config.eval.protocol == "published"
