import json

import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.data.coco import open_coco
from effdet_jax.data.example import coco_dataset
from effdet_jax.evaluation.coco import (
    METRICS,
    evaluate_coco,
    write_results,
)
from effdet_jax.inference.result import coco_results
from tests.conftest import shared
from tests.doubles import source_options

LABELS = ClassNames(("cat", "dog"), (5, 9))


def box(x, y, width, height, **fields):
    return {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, **fields}


def dataset(ids=(1, 2)):
    """Two images with a cat each."""
    return {
        "images": [{"id": id_, "height": 100, "width": 100} for id_ in ids],
        "annotations": [
            box(10, 10, 40, 40, id=number + 1, image_id=id_, category_id=5)
            for number, id_ in enumerate(ids)
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    }


def found(image_id, score=0.9, x=10):
    return {
        "image_id": image_id,
        "category_id": 5,
        "bbox": [float(x), 10.0, 40.0, 40.0],
        "score": score,
    }


def test_the_published_fixture_gives_its_twelve_numbers():
    # The 'bbox' table of cocodataset/cocoapi, results/val2014_fake_eval_res.txt.
    folder = shared("data/cocoeval_golden")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    table = (folder / "val2014_fake_eval_res.txt").read_text().split("type=bbox")[1]
    expected = [float(line.rsplit("=", 1)[1]) for line in table.splitlines() if "] = " in line]
    metrics = evaluate_coco(truth, results)
    assert metrics.num_images == 100
    found = [metrics.summary[name] for name in METRICS]
    np.testing.assert_allclose(found, expected[: len(METRICS)], atol=5e-4)


def test_ground_truth_as_detections_is_perfect():
    folder = shared("data/coco_slice")
    source = open_coco("val", source_options(dir=str(folder)))
    results = []
    for truth in source.ground_truth():
        kept = ~truth.crowd
        scores = np.ones(int(kept.sum()))
        results += coco_results(
            truth.image_id, truth.boxes[kept], scores, truth.labels[kept], source.class_names
        )
    metrics = evaluate_coco(coco_dataset(source.ground_truth(), source.class_names), results)
    assert metrics.num_images == len(source)
    np.testing.assert_allclose(metrics.summary["AP"], 1.0, atol=1e-9)
    np.testing.assert_allclose(list(metrics.per_class.values()), 1.0, atol=1e-9)


def test_half_found_by_hand():
    # One of two cats is found, exactly: precision 1 up to recall 0.5, so 51 of 101 points.
    metrics = evaluate_coco(dataset(), [found(1)])
    np.testing.assert_allclose(metrics.summary["AP"], 51 / 101, atol=1e-9)
    np.testing.assert_allclose(metrics.summary["AR100"], 0.5)
    assert metrics.per_class.keys() == {"cat"} and metrics.summary["APl"] == -1.0


def test_iou_decides_by_hand():
    # Moved by 10 of 40: IoU 30 / 50 = 0.6, a hit for the thresholds 0.5, 0.55, 0.6 of ten.
    metrics = evaluate_coco(dataset(ids=(1,)), [found(1, x=20)])
    np.testing.assert_allclose(metrics.summary["AP"], 0.3, atol=1e-9)
    assert metrics.summary["AP50"] == pytest.approx(1.0) and metrics.summary["AP75"] == 0.0


@pytest.mark.parametrize("ids", [("a/b.jpg", "c.jpg"), (0, 10**12), ("x", 3)])
def test_image_ids_of_any_type(ids):
    metrics = evaluate_coco(dataset(ids), [found(ids[0]), found(ids[1])])
    np.testing.assert_allclose(metrics.summary["AP"], 1.0)


def test_images_without_detections_and_without_boxes_count():
    content = dataset()
    content["images"].append({"id": 3, "height": 100, "width": 100})
    perfect = evaluate_coco(content, [found(1), found(2)])
    with_false_alarm = evaluate_coco(content, [found(1, 0.5), found(2, 0.5), found(3, 0.9)])
    assert perfect.num_images == 3 and perfect.summary["AP"] == pytest.approx(1.0)
    # Precision is 2/3 at best once the false alarm comes first.
    np.testing.assert_allclose(with_false_alarm.summary["AP"], 2 / 3, atol=1e-9)


def test_nothing_found_is_zero():
    metrics = evaluate_coco(dataset(), [])
    assert metrics.summary["AP"] == 0.0 and metrics.per_class == {"cat": 0.0}


def test_results_of_unknown_images_are_an_error():
    with pytest.raises(ValueError, match="results of 1 images that aren't in the data set: 7"):
        evaluate_coco(dataset(), [found(7)])


def test_results_are_written_into_a_new_folder(tmp_path):
    write_results(str(tmp_path / "new" / "results.json"), [found(1)])
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == [found(1)]


def test_without_ground_truth_there_is_no_ap():
    dataset = {"images": [{"id": 7}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    row = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}
    metrics = evaluate_coco(dataset, [row])
    assert metrics.lines() == ["no ground truth, no AP"] and metrics.num_images == 1
