"""A classifier through the commands of a detector, and a detector that starts from it."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

import effdet_jax as ed
from effdet_jax import evaluate, train
from effdet_jax.data.synthetic import NAMES
from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.inference.load import initial_kind, read_initial_variables
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.run.initialize import create_initial_state
from effdet_jax.training.optimizer import create_optimizer
from tests.conftest import ROOT
from tests.tiny import tiny_spec

pytestmark = pytest.mark.slow  # The step alone takes most of a minute to compile.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """configs/classify_b0.py:smoke with the narrowest backbone, for two steps."""
    path = ROOT / "configs" / "classify_b0.py"
    spec = importlib.util.spec_from_file_location("classify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.model.backbone = "efficientnet-tiny"
    config.num_steps = 2
    workdir = tmp_path_factory.mktemp("run") / "classifier"
    metrics = train.train(config, str(workdir))
    assert 0.0 <= metrics["eval/top1"] <= metrics["eval/top5"] <= 1.0
    return workdir


def test_training_measures_accuracies_and_draws_classes(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss/class"]) for row in rows if "loss/class" in row)
    (evaluated,) = [row for row in rows if "eval/top1" in row]
    assert evaluated["eval/loss/total"] > 0 and evaluated["eval/averaged/top1"] >= 0
    for name in ("train_batch.jpg", "val_detections.jpg"):
        with Image.open(workdir / name) as picture:
            assert min(picture.size) > 200


def test_evaluate_prints_and_writes_top1_and_top5(workdir, tmp_path, capsys):
    flags = dict.fromkeys(("config", "protocol", "nms", "dtype"))
    flags |= {"data_dir": "", "split": "val", "batch_size": 8}
    assert evaluate.main(checkpoint=str(workdir), output=str(tmp_path / "out"), **flags) == 0
    output = capsys.readouterr().out
    assert "8 images, 8 predictions, loss " in output and "top1 0." in output
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["summary"].keys() == {"top1", "top5"}
    rows = json.loads((tmp_path / "out" / "classified.json").read_text())
    assert len(rows) == 8 and len(rows[0]["category_ids"]) == 5
    right = sum(one["top1"] * one["num_images"] for one in numbers["classes"] if one["num_images"])
    assert right == pytest.approx(numbers["summary"]["top1"] * numbers["num_images"])
    assert (tmp_path / "out" / "classes.csv").read_text().startswith("name,num_images,top1,top5,")


def test_a_predictor_names_the_five_most_probable_classes(workdir):
    result = ed.Predictor(*ed.load(workdir))(np.zeros((30, 40, 3), np.uint8))
    assert len(set(result.names)) == 5 and set(result.names) < set(NAMES)
    assert sorted(result.scores, reverse=True) == list(result.scores)
    np.testing.assert_array_equal(result.boxes, [[0, 0, 30, 40]] * 5)


def test_a_detector_starts_from_its_backbone(workdir, capsys):
    spec = tiny_spec(activation="swish", backbone="efficientnet-tiny")
    detector = Detector(spec)
    given, _ = read_initial_variables(str(workdir), detector)
    assert initial_kind(str(workdir)) == "backbone"
    optimizer = create_optimizer(**parameter_masks(detector))
    state = create_initial_state(detector, optimizer, create_mesh(8), seed=0, init=str(workdir))
    kernel = state.params["backbone"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, given["params"]["backbone"]["stem_conv"]["kernel"])
    assert "unused 7: " in capsys.readouterr().out  # The classifier's.
