"""What version 0.1 wrote is read: a workdir, a converted folder, and what was found with them.

`goldens/version_0_1.tar.xz` was written by the commit that names it: a run of two steps on rendered
scenes with a tiny network (`workdir`), the same converted (`folder`), and the ten best detections
on each of its two validation scenes (`results.json`).
"""

import json
import tarfile

import jax
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax import config as configs
from effdet_jax import evaluate
from effdet_jax.checkpoint import LAST, Checkpoints
from effdet_jax.distributed.mesh import place_batch
from effdet_jax.experiment import Experiment
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that holds `workdir`, `folder` and `results.json`."""
    path = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(ROOT / "tests" / "goldens" / "version_0_1.tar.xz") as archive:
        archive.extractall(path, filter="data")
    return path


def recorded(written, image_id):
    """The ten rows of an image, best first."""
    rows = json.loads((written / "results.json").read_text())
    rows = [row for row in rows if row["image_id"] == image_id]
    assert len(rows) == 10
    return rows


def assert_found(found, expected):
    """Every expected row is among those found; equal scores may come in another order."""
    for row in expected:
        same = [other for other in found if other["category_id"] == row["category_id"]]
        boxes = np.abs(np.array([other["bbox"] for other in same]) - row["bbox"]).max(axis=1)
        scores = np.abs(np.array([other["score"] for other in same]) - row["score"])
        assert np.any((boxes < 0.01) & (scores < 3e-6)), row


def test_a_workdir_is_evaluated_as_it_was(written, tmp_path):
    checkpoint, output = str(written / "workdir"), tmp_path / "found.json"
    flags = {"config": None, "data_dir": "", "split": "val", "protocol": None, "nms": None}
    flags |= {"dtype": None, "batch_size": 8, "tta": "", "fusion": None, "curve": []}
    flags |= {"output": str(output)}
    assert evaluate.main(checkpoint=checkpoint, **flags) == 0
    found = json.loads(output.read_text())
    assert len(found) == 200
    for image_id in (0, 1):
        rows = [row for row in found if row["image_id"] == image_id]
        assert_found(rows[:15], recorded(written, image_id))


def test_a_workdir_and_a_folder_predict_what_they_did(written):
    (model, variables), (same, copied) = (ed.load(written / name) for name in ("workdir", "folder"))
    assert same.spec == model.spec and same.class_names == model.class_names
    assert model.dtype == same.dtype == np.float32
    assert model.score_threshold is same.score_threshold is None
    jax.tree.map(np.testing.assert_array_equal, copied, variables)
    config = evaluate.stored_config(str(written / "workdir"))
    scenes = Experiment.from_config(config).val_source
    found = ed.Predictor(model, variables, score_threshold=0.0)([scenes[0].image, scenes[1].image])
    for image_id in (0, 1):
        assert_found(found[image_id].to_coco(image_id)[:15], recorded(written, image_id))


@pytest.fixture(scope="module")
def resumed(written):
    """(experiment of one more step, the state that the workdir goes on from)."""
    config = evaluate.stored_config(str(written / "workdir"))
    assert configs.plain(config).items() >= {"batch_size": 4, "num_steps": 2}.items()
    config.num_steps = 3
    experiment = Experiment.from_config(config, devices=jax.devices()[:1])
    last = Checkpoints(written / "workdir" / LAST, read_only=True)
    state = experiment.load_or_create_state(last)
    last.close()
    return experiment, state


def next_batch(experiment):
    return place_batch(next(experiment.train_batches(2)), experiment.mesh)


def test_a_workdir_has_all_that_training_needs(written, resumed):
    experiment, state = resumed
    averages = ed.load(written / "workdir")[1]
    jax.tree.map(np.testing.assert_array_equal, state.ema, averages)
    moments = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(state.opt_state))
    assert state.step == 2 and moments > 2  # Its own, not those of a new optimizer.
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float32 to an int32 power.
        after, _ = jax.eval_shape(experiment.step, state, next_batch(experiment))
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow  # It compiles the step.
def test_a_workdir_trains_on(resumed):
    experiment, state = resumed
    with jax.numpy_dtype_promotion("standard"):
        state, metrics = experiment.step(state, next_batch(experiment))
    assert state.step == 3 and metrics["finite"]
    # The two steps before had 2.135 and 2.180.
    assert 1.8 < metrics["loss/total"] < 2.5 and metrics["optim/learning_rate"] > 0
