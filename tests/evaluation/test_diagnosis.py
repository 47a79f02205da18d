"""Every planted fault has its line, and nothing else is said of it."""

import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import coco_dataset
from effdet_jax.evaluation.boxes import BoxEvaluation
from effdet_jax.evaluation.coco import evaluate_coco
from effdet_jax.evaluation.diagnosis import (
    Circumstances,
    best_overlap,
    diagnose,
    without_classes,
)
from effdet_jax.inference.result import coco_results
from tests.data.test_subset import Labelled

NAMES = ClassNames(("a", "b"), (1, 2))
BOX = (2.0, 3.0, 12.0, 13.0)  # What `Labelled` has.
RIGHT = Labelled([0], [1])


def row(image, box, label, score):
    return coco_results(image, np.array([box]), np.array([score]), np.array([label]), NAMES)


def evaluation(source, *rows, unreadable=()):
    """Of one detection per image: (box, label, score)."""
    dataset = coco_dataset(source.ground_truth(), NAMES)
    results = []
    for image, (box, label, score) in enumerate(rows):
        results += row(image, box, label, score)
    metrics = evaluate_coco(dataset, results)
    return BoxEvaluation(metrics=metrics, results=results, unreadable=list(unreadable))


def said(*rows, source=RIGHT, train=None, unreadable=(), **known):
    first, *findings = diagnose(
        evaluation(source, *rows, unreadable=unreadable), source, Circumstances(**known), train
    )
    assert first.startswith("AP is ")
    return "\n".join(findings)


def one(text):
    """The only finding."""
    assert text.count("\n") == 0, text
    return text


def test_nothing_predicted():
    rows = [(BOX, 0, 1e-4), (BOX, 1, 1e-4)]
    text = one(said(*rows, learning_rate=0.02))
    assert "no score is above 0.001" in text and "now 0.02 for a batch" in text
    text = one(said(score_threshold=0.5))  # Nothing came through.
    assert "no score reaches --config.eval.score_threshold=0.5" in text


def test_boxes_elsewhere():
    far = (15.0, 20.0, 19.0, 29.0)
    assert "the order or the scale of boxes" in one(said((far, 0, 0.9), (far, 1, 0.9)))


def test_classes_of_another_order():
    swapped = [(BOX, 1, 0.9), (BOX, 0, 0.9)]
    text = one(said(*swapped))
    assert "AP50 is 0.000, and 1.000 without classes" in text and "check_data" in text
    agnostic = without_classes(
        coco_dataset(RIGHT.ground_truth(), NAMES), evaluation(RIGHT, *swapped).results
    )
    assert agnostic.summary["AP"] == pytest.approx(1.0)


def test_classes_that_do_not_meet():
    text = said((BOX, 1, 0.9), (BOX, 1, 0.9), source=Labelled([0], [0]))
    assert "no class that is found is in the validation data: ids [2] against [1]" in text


def test_validation_data_without_boxes_that_count():
    text = one(said((BOX, 0, 0.9), (BOX, 0, 0.9), source=Labelled([None], [None])))
    assert "has no boxes that count: all 2 are crowds" in text and "--config.data.val_json" in text


def test_images_that_cannot_be_read():
    assert "1 of 2 validation images can't be read, first b.jpg: " in said(
        (BOX, 0, 0.9), unreadable=["b.jpg"]
    )


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({"step": 40, "warmup_steps": 100}, "it is early: 40 steps, 100 of them warm-up"),
        ({"step": 2000, "warmup_steps": 9000}, "it is early: 2000 steps"),
        ({"statistics_left": 0.36}, "still are 36% initial values"),
        ({"aps": {"averaged": 0.001, "raw": 0.3}}, "lag behind (AP 0.001, raw 0.300)"),
        ({"aps": {"averaged": 0.001}}, "--config.eval.weights=both"),
        ({"loss": 3.1, "smallest_loss": 1.0}, "training diverges: the loss is 3.1, after 1. Try"),
        ({"anchors": ["15 % of boxes reach no anchor"]}, "- 15 % of boxes reach no anchor"),
    ],
)
def test_circumstances(known, text):
    assert text in one(said((BOX, 0, 0.9), (BOX, 1, 0.9), **known))


def test_training_images_tell_learning_from_generalising():
    bad, good = [(BOX, 1, 0.9), (BOX, 0, 0.9)], [(BOX, 0, 0.9), (BOX, 1, 0.9)]
    learned, not_learned = evaluation(RIGHT, *good), evaluation(RIGHT, *bad)
    assert "is found (AP 1.000 on 2 training images), so the validation data differs" in said(
        *bad, train=learned
    )
    text = said(*bad, train=not_learned)
    assert "isn't found either (AP 0.000 on 2 training images)" in text


def test_nothing_found_says_where_to_look():
    first, last = diagnose(
        evaluation(RIGHT, (BOX, 0, 0.9), (BOX, 1, 0.9)), RIGHT, Circumstances(best_ap=2.0)
    )
    assert first.startswith("AP is 1.000, after 2.000. Looked at: 2 detections, best score 0.9, ")
    assert "mean best IoU with an object 1.00, AP without classes 1.000" in first
    assert last.startswith("- nothing is wrong that is looked for here")


def test_overlap_is_the_mean_over_images_of_the_best():
    dataset = coco_dataset(Labelled([0], [0], []).ground_truth(), NAMES)
    half = (2.0, 3.0, 12.0, 8.0)  # Half of BOX: IoU 0.5.
    results = row(0, half, 0, 0.9) + row(2, half, 0, 0.9)
    assert best_overlap(dataset, results) == 0.25  # 0.5 and nothing.
