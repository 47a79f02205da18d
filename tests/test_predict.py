"""What `predict` takes and refuses; `test_train.py` runs the command."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effdet_jax import predict
from effdet_jax.checkpoint import BEST, Checkpoints, Metadata
from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError
from effdet_jax.detection.postprocess import Detections
from effdet_jax.model.detector import Detector
from tests.tiny import random_variables, tiny_spec


@pytest.mark.parametrize(
    ("stored", "flag", "expected"),
    [
        ("bfloat16", None, jnp.bfloat16),  # As the run evaluated.
        ("bfloat16", "float32", jnp.float32),
        ("float32", None, jnp.float32),
    ],
)
def test_it_computes_as_the_run_evaluated_unless_asked(
    tmp_path, monkeypatch, stored, flag, expected
):
    spec = tiny_spec()
    checkpoints = Checkpoints(tmp_path / BEST)
    metadata = Metadata(spec, ClassNames(("a", "b"), (1, 2)), {}, dtype=stored)
    checkpoints.save(metadata, {"nothing": jnp.zeros(1)}, random_variables(Detector(spec)))
    checkpoints.close()
    image = tmp_path / "black.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(image)
    asked = []

    def nothing_found(model, variables, **options):
        asked.append(model)
        none = np.zeros((1, 1), bool)
        found = Detections(np.zeros((1, 1, 4)), np.zeros((1, 1)), np.zeros((1, 1), int), none)
        return lambda images: found

    monkeypatch.setattr(predict, "Predictor", nothing_found)
    status = predict.main(
        [str(image)],
        checkpoint=str(tmp_path),
        output=str(tmp_path / "found"),
        score_threshold=0.3,
        dtype=flag,
        batch_size=8,
        pictures=True,
    )
    assert status == 0 and asked[0].dtype == expected
    assert Image.open(tmp_path / "found" / "black.jpg").size == (40, 30)
    assert (tmp_path / "found" / "detections.json").read_text() == "[]"


def test_where_nothing_is_found_the_best_score_and_the_flag_to_type_are_told(
    tmp_path, monkeypatch, capsys
):
    """Best scores 0.08 and 0.02 of two images, one below the other's padding of 0.9."""
    model = Detector(tiny_spec(), ClassNames(("a", "b"), (1, 2)))
    scores = np.array([[0.08, 0.01, 0.9], [0.02, 0.01, 0.9]])
    valid = np.array([[True, True, False]] * 2)
    boxes, labels = np.zeros((2, 3, 4)), np.zeros((2, 3), int)
    found = Detections(boxes, scores, labels, valid)
    monkeypatch.setattr(predict, "load", lambda *_, **__: (model, {}))
    monkeypatch.setattr(predict, "Predictor", lambda *_, **__: lambda images: found)
    for name in "ab":
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    flags = {"checkpoint": "run", "output": str(tmp_path / "found"), "dtype": None}
    flags |= {"batch_size": 8, "pictures": False}
    assert predict.main([str(tmp_path)], score_threshold=0.3, **flags) == 0
    said = capsys.readouterr().out
    assert "a.png: 0 detections; the best score was 0.08\n" in said
    assert "b.png: 0 detections; the best score was 0.02\n" in said
    assert "nothing is above --score_threshold=0.3 on 2 images; the best score was 0.08 (" in said
    assert said.endswith("a.png): --score_threshold=0.05\n")
    assert predict.main([str(tmp_path)], score_threshold=0.05, **flags) == 0
    said = capsys.readouterr().out
    assert "a.png: 1 detections\n" in said and "nothing is above" not in said


@pytest.mark.parametrize(
    ("best", "threshold"), [(0.08, 0.05), (0.29, 0.2), (0.012, 0.005), (0.9, 0.5), (2e-4, 1e-4)]
)
def test_a_lower_threshold_is_round_and_below_the_best(best, threshold):
    assert predict.lower_threshold(best) == threshold


def test_images_are_files_folders_and_patterns(tmp_path):
    for name in ("b.jpg", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.jpg")
    assert predict.find_images([b]) == [b]
    assert predict.find_images([str(tmp_path)]) == [a, b]
    assert predict.find_images([str(tmp_path / "*.png"), b]) == [a, b]
    for paths, message in (
        ([], "no images given"),
        ([str(tmp_path / "c.png")], "no image '.*c.png"),
    ):
        with pytest.raises(DataError, match=message):
            predict.find_images(paths)
