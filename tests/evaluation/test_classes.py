import numpy as np
import pytest

from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.classes import ClassScorer, largest
from tests.doubles import Truths, row

NAMES = tuple("abcdefg")


def found(*labels):
    count = len(labels)
    scores = np.linspace(0.5, 0.1, count).astype(np.float32)
    return Detections(np.zeros((count, 4)), scores, np.array(labels), np.ones(count, bool))


def test_top1_and_top5_count_the_images_that_have_a_class():
    # Two of class a, one each of b and c, one without any.
    scorer = ClassScorer(Truths([[row(0)], [row(0)], [row(1)], [row(2)], []], names=NAMES))
    predictions = [
        found(0, 1, 2, 3, 4),  # Right.
        found(3, 1, 2, 4, 0),  # Fifth.
        found(3, 2, 4, 5, 6),  # Not among them.
    ]
    rows = [one for index in range(3) for one in scorer.rows(index, predictions[index])]
    result = scorer.evaluation(
        [*rows, *scorer.rows(4, predictions[0])],
        unreadable=["image 3"],
        first={0: predictions[0]},
        loss={"loss/total": 2.0},
    )
    assert (result.top1, result.top5, result.num_images) == (0.25, 0.5, 4)
    assert rows[0] == {
        "image_id": 0,
        "category_ids": [1, 2, 3, 4, 5],
        "scores": pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1]),
    }
    assert result.per_class == {"a": 0.5, "b": 0.0, "c": 0.0}
    assert result.classes[0].top5 == 1.0 and result.classes[0].taken_for == "d"
    assert result.classes[2].taken_for == "" and np.isnan(result.classes[6].top1)
    assert result.scalars() == {
        "eval/top1": 0.25,
        "eval/top5": 0.5,
        "eval/loss/total": 2.0,
        "eval/score_threshold": 0.0,
    }
    assert result.lines()[0] == "top1 0.2500  top5 0.5000" and len(result.lines()) == 5
    assert result.first[0].labels.tolist() == [0] and not result.is_low(1.0)
    columns, table = result.table()
    assert list(columns) == ["name", "num_images", "top1", "top5", "taken_for"]
    assert list(table[1]) == ["b", 1, 0.0, 0.0, "d"] and len(table) == 7
    assert result.to_dict()["classes"][6]["top1"] is None and scorer.max_boxes == 1


def test_without_any_class_there_is_nothing_to_get_right():
    result = ClassScorer(Truths([[], []], names=NAMES)).evaluation([], first={})
    assert (result.top1, result.num_images, result.per_class) == (0.0, 0, {})
    assert result.lines() == ["top1 0.0000  top5 0.0000"]


def test_the_largest_box_that_is_no_crowd_is_the_class():
    boxes = [row(0), row(1, (0.0, 0.0, 20.0, 20.0)), row(2, (0.0, 0.0, 50.0, 50.0), crowd=True)]
    first, second = Truths([boxes, [row(2, crowd=True)]], names=NAMES).ground_truth()
    assert largest(first) == 1 and largest(second) == -1
