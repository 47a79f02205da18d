import pytest

from effdet_jax.evaluation.boxes import BoxEvaluation, BoxScorer, most_boxes
from effdet_jax.evaluation.coco import CocoMetrics
from tests.doubles import Truths, row


def test_the_most_boxes_are_counted_without_crowds():
    rows = [("a", 0), ("a", 0), ("a", 1), ("b", 0)]
    rows = [{"image_id": image, "iscrowd": crowd} for image, crowd in rows]
    assert most_boxes({"annotations": rows}) == 2 and most_boxes({"annotations": []}) == 0


def evaluation(ap, boxes=1, **others):
    return BoxEvaluation(metrics=CocoMetrics({"AP": ap}, {"cat": ap}, 3, boxes), **others)


def test_numbers_by_name():
    result = evaluation(0.25, loss={"loss/total": 2.0})
    assert result.scalars() == {"eval/AP": 0.25, "eval/loss/total": 2.0}
    assert result.value == 0.25 and result.per_class == {"cat": 0.25} and result.num_images == 3


def test_an_ap_next_to_nothing_or_that_fell_is_low():
    assert evaluation(0.009).is_low(0.0) and evaluation(-1.0).is_low(0.0)
    assert not evaluation(0.011).is_low(0.0)
    assert evaluation(0.2).is_low(0.41) and not evaluation(0.2).is_low(0.4)
    assert not evaluation(-1.0, boxes=0).is_low(0.0)  # There is nothing to find.


def test_a_scorer_keeps_to_the_data_sets_own_ids():
    scorer = BoxScorer(Truths([[row(1)], []]))
    rows = [{"image_id": 0, "category_id": 2, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.5}]
    result = scorer.evaluation(rows, unreadable=["image 1"])
    assert scorer.max_boxes == 1 and result.value == pytest.approx(1.0)
    assert result.warnings == ["warning: image 1 can't be read and counts as without detections"]
