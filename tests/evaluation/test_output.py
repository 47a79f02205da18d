import csv
import json
import math

import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.evaluation.analysis import analyse
from effdet_jax.evaluation.boxes import BoxEvaluation
from effdet_jax.evaluation.coco import evaluate_coco, run_coco
from effdet_jax.evaluation.output import check_output, write_output
from effdet_jax.files import DestinationError

DATASET = {
    "images": [{"id": "ä.jpg", "height": 100, "width": 100}],
    "annotations": [
        {
            "id": 1,
            "image_id": "ä.jpg",
            "category_id": 5,
            "bbox": [10, 10, 40, 40],
            "area": 1600,
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 5, "name": "cat, small"}, {"id": 9, "name": "dog"}],
}
ROWS = [{"image_id": "ä.jpg", "category_id": 5, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.9}]


@pytest.fixture
def result():
    names = ClassNames(("cat, small", "dog"), (5, 9))
    metrics, analysis = evaluate_coco(DATASET, ROWS), analyse(run_coco(DATASET, ROWS), names)
    loss = {"loss/total": 0.5, "loss/box": math.nan}
    return BoxEvaluation(
        metrics=metrics, results=ROWS, unreadable=["image 3"], analysis=analysis, loss=loss
    )


def test_a_folder_has_results_numbers_and_classes(tmp_path, result):
    for _ in range(2):  # What is there is replaced.
        write_output(str(tmp_path / "new"), result)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["classes.csv", "detections.json", "metrics.json"]
    assert json.loads((tmp_path / "new" / "detections.json").read_text()) == ROWS
    numbers = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert numbers["summary"]["AP"] == pytest.approx(1.0) and numbers["summary"]["APs"] == -1.0
    assert numbers["loss"] == {"total": 0.5, "box": None}
    # Of 0.01 … 0.90, which all give an F1 of 1, the middle.
    assert numbers["score_threshold"] == numbers["analysis"]["threshold"] == 0.46
    assert numbers["num_images"] == numbers["num_boxes"] == 1 and numbers["unreadable"] == [
        "image 3"
    ]
    with open(tmp_path / "new" / "classes.csv", newline="", encoding="utf-8") as file:
        cat, dog = csv.DictReader(file)
    assert cat["name"] == "cat, small" and float(cat["ap"]) == pytest.approx(1.0)
    assert (dog["num_boxes"], float(dog["ap"]), float(dog["best_f1"])) == ("0", -1.0, 0.0)


def test_a_json_is_the_results_alone(tmp_path, result):
    write_output(str(tmp_path / "r.json"), result)
    assert json.loads((tmp_path / "r.json").read_text()) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DestinationError, match="is a file: give a folder, or a name that ends"):
        check_output(str(tmp_path / "file"))
    with pytest.raises(DestinationError, match="is a folder; give another name"):
        check_output(str(tmp_path / "folder.json"))
    check_output(str(tmp_path / "new"))
    check_output("")
