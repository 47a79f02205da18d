import numpy as np

from effdet_jax.evaluation.analysis import ImageAnalysis
from effdet_jax.report.examples import choose, match, pairs
from tests.doubles import Images
from tests.reports import make_analysis, result

TRUTH = (5.0, 10.0, 25.0, 30.0)  # Of `Images`.


def test_every_image_is_chosen_once():
    images = [
        ImageAnalysis(0, num_boxes=1, true_positives=1, false_positives=0, f1=1.0),
        ImageAnalysis(1, num_boxes=3, true_positives=3, false_positives=0, f1=1.0),
        ImageAnalysis(2, num_boxes=2, true_positives=0, false_positives=1, f1=0.0),
        ImageAnalysis(3, num_boxes=4, true_positives=0, false_positives=5, f1=0.0),
        ImageAnalysis(4, num_boxes=0, true_positives=0, false_positives=0, f1=1.0),
        ImageAnalysis(5, num_boxes=2, true_positives=1, false_positives=1, f1=0.5),
    ]
    assert choose(images, 1)["best"] == [1] and choose(images, 1)["worst"] == [3]
    chosen = choose(images, 2)
    assert chosen["best"] == [1, 0] and chosen["worst"] == [3, 2]
    assert sorted(chosen["random"]) == [4, 5]
    assert choose(images, 9) == chosen and choose(images, 1) == choose(images, 1)
    assert choose([], 2) == {"best": [], "worst": [], "random": []}


def test_one_box_is_found_once_by_the_surest_detection_of_its_class():
    boxes = np.array([[0, 0, 10, 10], [0, 20, 10, 30]], float)
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 21, 10, 31], [50, 50, 60, 60]], float)
    is_found, is_right = match(boxes, np.array([0, 1]), found, np.array([0, 0, 0, 0]))
    assert is_found.tolist() == [True, False]  # The second box is of another class.
    assert is_right.tolist() == [True, False, False, False]
    half = np.array([[0, 0, 10, 5], [0, 0, 10, 4.9]])  # IoU 0.5 and 0.49.
    assert match(boxes[:1], np.array([0]), half[:1], np.array([0]))[1].tolist() == [True]
    assert match(boxes[:1], np.array([0]), half[1:], np.array([0]))[1].tolist() == [False]
    nothing = match(boxes, np.array([0, 1]), np.zeros((0, 4)), np.zeros(0, int))
    assert nothing[0].tolist() == [False, False] and nothing[1].shape == (0,)


def test_pairs_say_what_was_found_and_draw_it_in_its_colour():
    source = Images(4, broken=(2,))
    results = [
        result("0.png", TRUTH),
        result("3.png", (0.0, 0.0, 4.0, 4.0)),
        result("3.png", TRUTH, score=0.4),  # Below the threshold.
    ]
    shown = list(pairs(source, results, make_analysis(), each=1))
    # The random one would be the one that can't be read.
    assert [(pair.kind, pair.name) for pair in shown] == [("best", "image 0"), ("worst", "image 3")]
    best, worst = shown
    assert (best.found, best.missed, best.wrong) == (1, 0, 0)
    assert (worst.found, worst.missed, worst.wrong) == (0, 1, 1)
    assert best.truth.shape == worst.detections.shape == (315, 420, 3)  # 10.5 times 30×40.
    # The lower side of the true box: green where it was found, yellow where it was missed.
    red, green, blue = best.truth[261, 210].astype(int)
    assert green > red + 50 and green > blue
    red, green, blue = worst.truth[261, 210].astype(int)
    assert red > green > blue + 50
