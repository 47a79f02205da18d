import json

import jax
import numpy as np
import pytest

from effdet_jax.config import smoke
from effdet_jax.families import FAMILIES
from effdet_jax.inference.load import load
from effdet_jax.inference.predictor import Predictor
from effdet_jax.model.counts import summarize
from effdet_jax.model.detector import Detector, check_spec
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.spec import ModelSpec, list_models, model_spec
from effdet_jax.train import train
from effdet_jax.training.freeze import frozen_modules, frozen_parameters
from tests.tiny import changed_config

NAMES = [name for models in FAMILIES.values() for name in models]
# Parameters and multiply-adds of 90 classes at the model's own size, counted by another program on
# PyTorch's modules. arXiv:1911.09070, table 2, has 34M and 97B, 53M and 127B, 60M, 104M and 1043B.
COUNTS = {
    "retinanet-r50": (34_070_414, 96_703_424_000),
    "retinanet-r101": (53_062_542, 127_007_270_400),
    "nasfpn-r50": (60_057_998, 140_084_979_200),
    "nasfpn-r50-384": (103_547_534, 1_039_688_524_800),
}
SLOW = ("retinanet-r101", "nasfpn-r50-384")


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_whole(name):
    spec = model_spec(name)
    check_spec(spec)
    assert spec.name == name and spec.anchors_per_cell == 9
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in COUNTS]
)
def test_counts_are_the_papers(name):
    summary = summarize(model_spec(name))
    assert (summary["parameters"]["total"], summary["multiply_adds"]["total"]) == COUNTS[name]
    # Levels 3 to 7 of 640 px: 80, 40, 20, 10 and 5 cells to a side.
    if name != "nasfpn-r50-384":
        assert summary["anchors"]["total"] == 9 * (80**2 + 40**2 + 20**2 + 10**2 + 5**2)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "adds"), [(1024, 358.62e9), (1280, 560.34e9)])
def test_nasfpn_at_larger_sizes(side, adds):
    """The paper has 360B and 563B."""
    spec = model_spec("nasfpn-r50", image_size=(side, side))
    assert summarize(spec)["multiply_adds"]["total"] == pytest.approx(adds, abs=5e6)


def test_torchvision_counts_what_it_trains():
    """torchvision lists 34,014,999: the backbone's normalisations, 53,120 of them, are frozen."""
    model = Detector(model_spec("retinanet-r50-torchvision"))
    params = abstract_variables(model)["params"]
    frozen = frozen_parameters(model, frozen_modules(model, norms=["backbone"]))
    sizes = jax.tree.map(lambda leaf, fixed: (leaf.size, not fixed and leaf.size), params, frozen)
    leaves = jax.tree.leaves(sizes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    total, trained = (sum(column) for column in zip(*leaves))
    assert (total, trained) == (34_068_119, 34_014_999)


def test_families_are_listed_apart():
    assert list_models("retinanet")[:2] == ("retinanet-r50", "retinanet-r101")
    assert list_models("nasfpn") == ("nasfpn-r50", "nasfpn-r50-384")
    assert list_models() == list_models("efficientdet") and len(list_models()) == 15
    with pytest.raises(ValueError, match="'yolo' is unknown; there are efficientdet, retinanet, n"):
        list_models("yolo")


def test_fields_can_be_changed():
    spec = model_spec("retinanet-r50", num_classes=3, backbone="resnet101")
    assert (spec.num_classes, spec.backbone, spec.pyramid) == (3, "resnet101", "retinanet")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet-r50", "retinanet-r50-torchvision", "nasfpn-r50"])
def test_a_small_one_trains_and_detects(name, tmp_path):
    changes = {
        "model.name": name,
        "model.backbone": "resnet-tiny",
        "model.image_size": "128",
        "model.pyramid_width": 8,
        "model.pyramid_cells": 1,
        "model.head_depth": 1,
    }
    config = smoke(changed_config(num_epochs=1.0), image_size="128")
    config.update_from_flattened_dict(changes | {"num_steps": 2, "batch_size": 8})
    train(config, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(rows[0]["loss/total"]) and 0 <= rows[-1]["eval/AP"] <= 1
    model, variables = load(str(tmp_path))
    assert (model.spec.name, model.spec.num_classes) == (name, 6)
    found = Predictor(model, variables)(np.zeros((1, 100, 150, 3), np.uint8))
    assert found.boxes.shape == (1, 100, 4) and found.valid.any()
