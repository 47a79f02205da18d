import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.convert.folder import folder_notes, is_folder, read_folder, write_folder
from effdet_jax.convert.rules import ConversionError
from effdet_jax.model.detector import Detector
from effdet_jax.spec import ADVPROP, model_spec
from tests.tiny import random_variables

SPEC = model_spec("efficientdet-lite0", num_classes=2, pyramid_cells=1, **ADVPROP)
LABELS = ClassNames(("red", "white"), (3, 7))


@pytest.fixture
def variables():
    return random_variables(Detector(SPEC))


def test_written_and_read_is_the_same(tmp_path, variables):
    assert not is_folder(tmp_path)
    write_folder(tmp_path, SPEC, LABELS, variables, origin="Made.", metrics={"eval/AP": 0.25})
    assert is_folder(tmp_path)
    spec, labels, again = read_folder(tmp_path)
    assert (spec, labels) == (SPEC, LABELS)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(variables))
    assert folder_notes(tmp_path) == ("Made.", {"eval/AP": 0.25})
    card = (tmp_path / "README.md").read_text()
    assert "Made." in card and "| AP | 0.2500 |" in card and "red, white" in card
    umask = os.umask(0)
    os.umask(umask)
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in tmp_path.iterdir())


def test_a_card_without_results_says_so(tmp_path, variables):
    write_folder(tmp_path, SPEC, LABELS, variables, origin="Made.")
    card = (tmp_path / "README.md").read_text()
    assert "None measured with these weights" in card and "EfficientDet ([arXiv:1911.09070]" in card


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("segment", "pipeline_tag: image-segmentation"),
        ("retinanet", "RetinaNet ([arXiv:1708.02002]"),
    ],
)
def test_a_card_names_task_and_family(tmp_path, variables, objective, said):
    spec = dataclasses.replace(SPEC, objective=objective)
    write_folder(tmp_path, spec, LABELS, variables, origin="Made.")
    assert said in (tmp_path / "README.md").read_text()


def test_broken_folders_are_refused(tmp_path, variables):
    write_folder(tmp_path, SPEC, LABELS, variables, origin="Made.")
    config = json.loads((tmp_path / "config.json").read_text())
    other = config | {"spec": config["spec"] | {"num_classes": 3}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        ConversionError, match=r"class_head/predict/pointwise/bias is \(18,\), .*27"
    ):
        read_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConversionError, match="config.json' describes no model of effdet_jax"):
        read_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ConversionError, match="model.safetensors' can't be read"):
        read_folder(tmp_path)
