"""What `evaluate` takes from a checkpoint and from its flags; `test_train.py` runs the command."""

import json

import jax.numpy as jnp
import pytest

from effdet_jax import evaluate
from effdet_jax.checkpoint import BEST, Checkpoints, Metadata
from effdet_jax.classes import ClassNames
from effdet_jax.config import PROTOCOLS, ConfigError, plain
from effdet_jax.data.example import DataError
from effdet_jax.data.synthetic import NAMES
from effdet_jax.detection.retina import Retina
from effdet_jax.evaluation.boxes import BoxEvaluation
from effdet_jax.evaluation.coco import METRICS, CocoMetrics
from effdet_jax.experiment import Experiment
from effdet_jax.files import DestinationError
from effdet_jax.inference.tta import TTA, TTAError
from effdet_jax.model.detector import Detector
from tests.doubles import make_folder
from tests.reports import write_metrics
from tests.tiny import random_variables, tiny_config, tiny_spec

FLAGS = {"config": None, "curve": [], "data_dir": "", "split": "val", "protocol": None, "nms": None}
FLAGS |= {"dtype": None, "batch_size": 0, "tta": "", "fusion": None, "output": ""}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on rendered scenes whose evaluations computed in bfloat16, with soft-NMS of sigma 0.3."""
    config = tiny_config(**{"data.source": "shapes", "eval.method": "gaussian", "eval.sigma": 0.3})
    spec, class_names = tiny_spec(num_classes=len(NAMES)), ClassNames.from_names(NAMES)
    path = tmp_path_factory.mktemp("run")
    metadata = Metadata(spec, class_names, plain(config), dtype="bfloat16")
    checkpoints = Checkpoints(path / BEST)
    checkpoints.save(metadata, {"nothing": jnp.zeros(1)}, random_variables(Detector(spec)))
    checkpoints.close()
    return str(path)


@pytest.fixture
def evaluated(monkeypatch):
    """Evaluates nothing; a list of (model, options) that would have been evaluated."""
    asked = []

    def create_evaluator(model, source, mesh, **options):
        objective = options.pop("objective")
        if options["tta"] is None:
            del options["tta"]
        assert isinstance(objective, Retina) and objective.spec == model.spec
        asked.append((model, options))
        return lambda variables, other=None: BoxEvaluation(
            metrics=CocoMetrics(dict.fromkeys(METRICS, 0.0), {}, 1, 1)
        )

    monkeypatch.setattr("effdet_jax.experiment.create_evaluator", create_evaluator)
    return asked


def test_a_checkpoint_is_evaluated_as_its_run_was(workdir, evaluated):
    assert evaluate.main(**FLAGS | {"checkpoint": workdir, "batch_size": 16}) == 0
    ((model, options),) = evaluated
    assert model.dtype == jnp.bfloat16
    expected = {"method": "gaussian", "sigma": 0.3, "batch_size": 16}
    assert options == PROTOCOLS["default"] | expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"protocol": "published"}, PROTOCOLS["published"]),  # The run's own knobs are forgotten.
        ({"protocol": "default"}, PROTOCOLS["default"]),
        (
            {"protocol": "published", "nms": "hard"},
            PROTOCOLS["published"] | {"method": "hard"},
        ),
        ({"nms": "hard"}, PROTOCOLS["default"] | {"method": "hard", "sigma": 0.3}),
    ],
)
def test_flags_go_before_what_the_run_did(workdir, evaluated, flags, expected):
    evaluate.main(**FLAGS | flags | {"checkpoint": workdir, "dtype": "float32"})
    ((model, options),) = evaluated
    assert model.dtype == jnp.float32
    assert options == expected | {"batch_size": 64}  # 8 for each of 8 devices.


def test_other_views_take_part_where_they_are_asked_for(workdir, evaluated, capsys):
    flags = {"checkpoint": workdir, "tta": "flip,2", "fusion": "nms"}
    evaluate.main(**FLAGS | flags)
    ((_, options),) = evaluated
    assert options["tta"] == TTA(flip=True, scales=(2.0,), fusion="nms")
    assert "4 views of each image: 64×64, 128×128 px, each also mirrored" in capsys.readouterr().out
    with pytest.raises(TTAError, match="--tta=twice"):
        evaluate.main(**FLAGS | {"checkpoint": "nowhere", "tta": "twice"})


def test_data_of_other_classes_is_refused(workdir, tmp_path):
    make_folder(tmp_path)
    config = tiny_config(**{"data.dir": str(tmp_path)})
    message = "the model has no class 'dog', 'cat'; it has 6: circle, rectangle, triangle, star"
    with pytest.raises(DataError, match=message):
        evaluate.main(**FLAGS | {"checkpoint": workdir, "config": config, "split": "train"})


def write_images(root, **content):
    """A data folder whose val.json has one image and these other lists."""
    make_folder(root, images=[{"id": 7, "file_name": "0.png"}], **content)
    (root / "train.json").rename(root / "val.json")
    return tiny_config(**{"data.dir": str(root), "data.val_fraction": 0.0})


def test_result_rows_have_the_ids_of_the_file_and_need_no_ground_truth(workdir, tmp_path, capsys):
    """As for COCO's test images: a list of images and categories, for a results file to hand in."""
    categories = [{"id": 30 + number, "name": name} for number, name in enumerate(reversed(NAMES))]
    config = write_images(tmp_path, categories=categories, annotations=None)
    out = tmp_path / "results.json"
    flags = {"checkpoint": workdir, "config": config, "output": str(out), "batch_size": 8}
    assert evaluate.main(**FLAGS | flags) == 0
    found = json.loads(out.read_text())
    assert found and {row["image_id"] for row in found} == {7}
    assert {row["category_id"] for row in found} <= set(range(30, 36))
    assert "no ground truth, no AP" in capsys.readouterr().out


def test_runs_beside_each_other_need_no_checkpoint_and_a_page_to_write(tmp_path, capsys):
    write_metrics(tmp_path / "metrics.jsonl")
    flags = FLAGS | {"checkpoint": "", "curve": [str(tmp_path)]}
    page = tmp_path / "compare.html"
    assert evaluate.main(**flags | {"output": str(page)}) == 0
    assert "Best evaluation of each run" in page.read_text("utf-8")
    assert f"wrote {page}" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="needs a page to write: --output=compare.html"):
        evaluate.main(**flags)
    with pytest.raises(ConfigError, match="name what to evaluate: --checkpoint="):
        evaluate.main(**flags | {"curve": []})


def test_a_folder_to_write_into_is_looked_at_first(tmp_path):
    (tmp_path / "mine").write_text("here")
    with pytest.raises(DestinationError, match="is a file: give a folder"):
        evaluate.main(**FLAGS | {"checkpoint": "nowhere", "output": str(tmp_path / "mine")})


def test_a_loss_needs_the_weights_of_the_models_own_classes(tmp_path, capsys):
    make_folder(tmp_path)
    model = Detector(tiny_spec(), ClassNames(("dog", "cat"), (2, 5)))
    changes = {"data.dir": str(tmp_path), "loss.class_weights": "cat:2"}

    def asked(model=model, **others):
        return evaluate.loss_of_run(Experiment.from_config(tiny_config(**changes | others)), model)

    assert asked()._loss["class_weights"] == (1.0, 2.0)
    assert asked(**{"loss.class_weights": ""})._loss["class_weights"] is None
    assert asked(**{"eval.loss": False}) is None and not capsys.readouterr().out
    assert asked(**{"data.dir": str(tmp_path / "gone")}) is None
    said = capsys.readouterr().out
    assert "no loss    the weights of --config.loss.class_weights=cat:2 need the training" in said
    assert asked(Detector(tiny_spec(), ClassNames(("a", "b"), (1, 2)))) is None
    assert "are of other classes than the model's" in capsys.readouterr().out


def test_a_split_that_is_not_there(workdir, tmp_path):
    config = write_images(tmp_path)
    (tmp_path / "val.json").rename(tmp_path / "train.json")
    with pytest.raises(DataError, match="the data has no val split.*: --split=train"):
        evaluate.main(**FLAGS | {"checkpoint": workdir, "config": config})


def test_a_data_folder_of_the_run_that_is_not_here(tmp_path):
    metadata = Metadata(tiny_spec(), ClassNames(("a", "b"), (1, 2)), plain(tiny_config()))
    metadata.config["data"]["dir"] = "somewhere"
    checkpoints = Checkpoints(tmp_path / BEST)
    checkpoints.save(metadata, {"nothing": jnp.zeros(1)}, {"nothing": jnp.zeros(1)})
    checkpoints.close()
    with pytest.raises(DataError, match="data folder 'somewhere' isn't there.*: --data_dir=FOLDER"):
        evaluate.stored_config(str(tmp_path))
    assert evaluate.stored_config(str(tmp_path), "elsewhere").data.dir == "somewhere"


def test_a_low_ap_is_explained_with_training_images_where_they_are(workdir, evaluated, capsys):
    evaluate.main(**FLAGS | {"checkpoint": workdir})
    said = capsys.readouterr().out
    assert "AP is 0.000. Looked at: 0 detections" in said and "- no score is above 0.001" in said
    assert "training images" in said
    evaluate.main(
        **FLAGS
        | {
            "checkpoint": workdir,
            "split": "train",
            "config": tiny_config(**{"data.source": "shapes", "data.shapes_train": 8}),
        }
    )
    assert "training images 0" not in capsys.readouterr().out


def test_weights_that_are_no_run_do_not_say_which_data_to_use(tmp_path):
    with pytest.raises(ConfigError, match="is no training run.*--config=configs/d0.py --data_dir"):
        evaluate.stored_config(str(tmp_path))
