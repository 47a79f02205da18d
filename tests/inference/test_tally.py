import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.inference.result import Result
from effdet_jax.inference.tally import Tally, lower_threshold


def result(*scores):
    scores = np.array(scores, np.float32)
    boxes, labels = np.zeros((len(scores), 4), np.float32), np.zeros(len(scores), np.int32)
    return Result(boxes, scores, labels, ClassNames(("a",), (1,)), (30, 40))


def tally_of(threshold=0.3, **images):
    tally = Tally(threshold)
    for name, found in images.items():
        tally.add(f"{name}.jpg", found, found.above(threshold))
    return tally


def test_what_was_done_and_what_was_not():
    tally = tally_of(a=result(0.9, 0.4, 0.1), b=result())
    tally.broken.append("c.jpg")
    assert tally.lines(3, [f"{number}.txt" for number in range(7)], "found") == [
        "2 images: 2 detections",
        "skipped 7 files: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, and 2 more",
        "not readable 1: c.jpg",
    ]
    tally.interrupted = True
    assert (
        "Ctrl-C at 2 of 9 files; what was found on them is in 'found'"
        in tally.lines(9, [], "found")[2]
    )


def test_frames_are_counted_by_video():
    tally = Tally(0.3)
    for score in (0.9, 0.2):
        tally.add("a.mp4", result(score), result(score).above(0.3), frames=1)
    assert tally.lines(1, [], "found") == ["1 videos of 2 frames: 1 detections"]
    tally.add("a.jpg", result(), result())
    assert tally.lines(2, [], "found") == ["1 images, 1 videos of 2 frames: 1 detections"]


def test_where_nothing_is_found_the_best_score_and_what_to_type_is_told():
    (_, told) = tally_of(a=result(0.08, 0.01), b=result(0.02)).lines(2, [], "found")
    assert told.startswith("nothing is above --score_threshold=0.3 on 2 images; the best score was")
    assert told.endswith("0.08 (a.jpg): --score_threshold=0.05")
    (_, told) = tally_of(a=result()).lines(1, [], "found")
    assert "there is no candidate at all" in told


@pytest.mark.parametrize(
    ("best", "threshold"), [(0.08, 0.05), (0.29, 0.2), (0.012, 0.005), (0.9, 0.5), (2e-4, 1e-4)]
)
def test_a_lower_threshold_is_round_and_below_the_best(best, threshold):
    assert lower_threshold(best) == threshold
