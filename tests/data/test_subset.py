import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport, Example, Source, make_truth
from effdet_jax.data.subset import Subset, covering, spread
from tests.doubles import Numbers

CROWD = ((2, 3, 12, 13), 0, True, 100.0)


class Labelled:
    """Images with boxes of the given classes; a None is a crowd."""

    class_names, report, endless = ClassNames(("a", "b"), (1, 2)), DataReport(), False

    def __init__(self, *labels):
        self._truths = [
            make_truth(
                index,
                (20, 30),
                [CROWD if one is None else ((2, 3, 12, 13), one, False, 100.0) for one in some],
            )
            for index, some in enumerate(labels)
        ]

    def __len__(self):
        return len(self._truths)

    def __getitem__(self, index):
        return Example(np.full((20, 30, 3), index, np.uint8), self._truths[index])

    def describe(self, index):
        return f"labelled {index}"

    def ground_truth(self):
        return iter(self._truths)


def ids(source):
    return [truth.image_id for truth in source.ground_truth()]


def test_a_subset_is_a_source():
    some = Subset(Numbers(13), [7, 2])
    assert isinstance(some, Source) and len(some) == 2 and not some.endless
    assert some[0].image[0, 0, 0] == 7 and some.describe(1) == "number 2"
    assert ids(some) == [7, 2] == ids(some)
    assert some.report.lines() == ["2 images (0 without boxes), 2 boxes"]


def test_examples_are_spread_evenly():
    assert ids(spread(Numbers(13), 4)) == [0, 3, 6, 9]
    assert ids(spread(Numbers(3), 200)) == [0, 1, 2]


def test_the_first_images_with_boxes_and_every_class():
    source = Labelled([], [0], [None], [0], [0, 0], [0], [1])
    assert ids(covering(source, 3)) == [1, 3, 6]  # Not 4: the last has another class.
    assert ids(covering(source, 1)) == [1]
    assert ids(covering(source, 100)) == [1, 3, 4, 5, 6]
    with pytest.raises(DataError, match="no image has a box"):
        covering(Labelled([], [None]), 3)


def test_of_an_endless_source_the_first():
    source = Numbers(13)
    source.endless = True
    some = covering(source, 2)
    assert ids(some) == [0, 1] and not some.endless
