import json

import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.evaluation.analysis import THRESHOLDS, analyse, f1_curve
from effdet_jax.evaluation.coco import run_coco
from tests.conftest import shared

NAMES = ClassNames(("dog", "cat"), (9, 5))  # Not in the order of their ids.
CAT, DOG = 5, 9


def box(image_id, category, x=10.0, crowd=0, side=40.0):
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, 10.0, side, side],
        "area": side * side,
        "iscrowd": crowd,
    }


def found(image_id, category, score, x=10.0, side=40.0):
    bbox = [x, 10.0, side, side]
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}


def dataset(rows, images=("b", "a", "c", "d", "e")):
    return {
        "images": [{"id": id_, "height": 100, "width": 200} for id_ in images],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}],
    }


@pytest.fixture(scope="module")
def analysis():
    """Three of three cats found, a dog taken for a cat, a cat also called a dog, a false alarm."""
    truth = dataset([box("b", CAT), box("a", DOG), box("d", CAT), box("e", CAT)])
    results = [
        found("b", CAT, 0.9),
        found("b", DOG, 0.8),
        found("a", CAT, 0.7),
        found("d", CAT, 0.6),
        found("e", CAT, 0.6),
        found("c", CAT, 0.2),
    ]
    return analyse(run_coco(truth, results), NAMES)


def test_f1_by_hand(analysis):
    at = dict(zip(np.round(analysis.thresholds, 2), analysis.f1))
    # 2 TP / (detections + 4 boxes).
    expected = {0.2: 6 / 10, 0.21: 6 / 9, 0.6: 6 / 9, 0.61: 2 / 7, 0.8: 2 / 6, 0.9: 2 / 5, 0.91: 0}
    assert {threshold: at[threshold] for threshold in expected} == pytest.approx(expected)
    # The best is reached from 0.21 to 0.60.
    assert analysis.best_f1 == pytest.approx(6 / 9) and analysis.threshold == 0.41


def test_classes_by_hand(analysis):
    dog, cat = analysis.classes
    assert (cat.name, cat.num_images, cat.num_boxes) == ("cat", 3, 3)
    assert (dog.name, dog.num_images, dog.num_boxes) == ("dog", 1, 1)
    # By score: found, wrong, found, found. Precision is 1 up to recall 1/3 (34 of 101 points), then
    # 3/4.
    np.testing.assert_allclose(cat.precision, [1.0] * 34 + [0.75] * 67)
    np.testing.assert_allclose(cat.recall, np.arange(101) / 100)
    assert cat.ap == cat.ap50 == pytest.approx((34 + 67 * 0.75) / 101) and cat.ar == 1.0
    assert cat.best_f1 == pytest.approx(2 * 3 / (4 + 3)) and cat.threshold == 0.41
    assert (dog.ap, dog.ar, dog.best_f1) == (0.0, 0.0, 0.0)


def test_confusion_and_images_by_hand(analysis):
    #                 as a dog, as a cat, not found
    expected = [[0, 1, 0], [0, 3, 0], [1, 0, 0]]
    assert analysis.confusion.tolist() == expected
    counted = [
        (image.index, image.num_boxes, image.true_positives, image.false_positives)
        for image in analysis.images
    ]
    assert counted == [(0, 1, 1, 1), (1, 1, 0, 1), (2, 0, 0, 0), (3, 1, 1, 0), (4, 1, 1, 0)]
    assert [image.f1 for image in analysis.images] == pytest.approx([2 / 3, 0, 1, 1, 1])


def test_sizes_by_hand(analysis):
    small, medium, large = analysis.sizes  # 40 px a side.
    assert (small.num_boxes, medium.num_boxes, large.num_boxes) == (0, 4, 0)
    assert small.ap == large.ar == -1.0 and medium.ar == pytest.approx((1.0 + 0.0) / 2)


def confusion(truth, results):
    return analyse(run_coco(dataset(truth, images=("a",)), results), NAMES).confusion.tolist()


def test_what_lies_in_a_crowd_is_no_mistake_and_a_crowd_is_nothing_to_find():
    truth = [box("a", CAT), box("a", DOG, x=100.0, crowd=1)]
    # The second lies in the crowd, wholly; of the third a quarter does.
    results = [found("a", CAT, 0.9), found("a", CAT, 0.9, x=110.0, side=20.0)]
    assert confusion(truth, results) == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    results.append(found("a", CAT, 0.9, x=70.0))
    assert confusion(truth, results) == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_the_best_score_chooses_first_and_of_equal_boxes_one_of_its_class():
    # Two boxes 10 px apart, and two detections on the first: the lower one is left with IoU 0.6.
    truth = [box("a", CAT), box("a", DOG, x=20.0)]
    results = [found("a", DOG, 0.8), found("a", CAT, 0.9)]
    assert confusion(truth, results) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    twice = [box("a", DOG), box("a", CAT)]  # Both names for one object.
    assert confusion(twice, [found("a", CAT, 0.9)]) == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_half_of_the_union_is_enough():
    wide = found("a", CAT, 0.9) | {"bbox": [10.0, 10.0, 80.0, 40.0]}
    assert confusion([box("a", CAT)], [wide])[1] == [0, 1, 0]
    wider = found("a", CAT, 0.9) | {"bbox": [10.0, 10.0, 81.0, 40.0]}
    assert confusion([box("a", CAT)], [wider])[1] == [0, 0, 1]


@pytest.mark.parametrize("results", [[], [found("a", CAT, 0.4)]])
def test_nothing_to_find(results):
    analysis = analyse(run_coco(dataset([]), results), NAMES)
    assert analysis.best_f1 == 0.0 and not analysis.f1.any()
    assert [one.ap for one in analysis.classes] == [-1.0, -1.0]
    assert analysis.classes[0].precision.max() == -1.0
    assert analysis.confusion.sum() == 0  # The threshold is the middle one.
    assert [image.f1 for image in analysis.images] == [1.0] * 5


def test_a_score_that_is_the_threshold_counts():
    curve = f1_curve(np.array([0.07, 0.29]), np.array([True, True]), 2)
    assert curve[THRESHOLDS == 0.07] == 1.0 and curve[THRESHOLDS == 0.08] == pytest.approx(2 / 3)


def test_parts_agree_on_real_boxes():
    """COCO's own example of results: what is counted in several ways comes to the same."""
    folder = shared("data/cocoeval_golden")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    names = ClassNames(
        tuple(row["name"] for row in truth["categories"]),
        tuple(row["id"] for row in truth["categories"]),
    )
    analysis = analyse(run_coco(truth, results), names)
    boxes = sum(not row["iscrowd"] for row in truth["annotations"])
    assert analysis.confusion[:-1].sum() == sum(one.num_boxes for one in analysis.classes) == boxes
    right = sum(image.true_positives for image in analysis.images)
    wrong = sum(image.false_positives for image in analysis.images)
    assert analysis.best_f1 == pytest.approx(2 * right / (right + wrong + boxes))
    with_boxes = [one.ap50 for one in analysis.classes if one.num_boxes]
    assert np.mean(with_boxes) == pytest.approx(0.697, abs=5e-4)  # The published AP50.
    assert sum(size.num_boxes for size in analysis.sizes) == boxes


def test_the_table(analysis):
    best, head, dog, cat = analysis.lines()
    assert best == "best F1 0.667 at score threshold 0.41" and head.split()[0] == "class"
    assert cat.split() == ["cat", "3", "3", "0.834", "0.834", "1.000", "0.857", "0.41"]
    assert dog.split() == ["dog", "1", "1", "0.000", "0.000", "0.000", "0.000", "-"]


def test_it_is_plain_json(analysis):
    plain = json.loads(json.dumps(analysis.to_dict()))
    assert plain["threshold"] == 0.41 and plain["confusion"][2] == [1, 0, 0]
    assert plain["classes"][1]["name"] == "cat" and len(plain["classes"][1]["precision"]) == 101
    assert plain["images"][0] == {
        "index": 0,
        "num_boxes": 1,
        "true_positives": 1,
        "false_positives": 1,
        "f1": pytest.approx(2 / 3),
    }
