import numpy as np
import pytest

from effdet_jax.classes import ClassNames
from effdet_jax.data import transforms
from effdet_jax.data.statistics import class_weights, create_statistics
from effdet_jax.data.synthetic import Shapes
from tests.doubles import Truths, row


def test_boxes_are_counted_without_crowds():
    source = Truths([[row(0), row(1), row(1, crowd=True)], [], [row(0)] * 9])
    found = create_statistics(source)
    assert found.complete and found.boxes_per_image.tolist() == [2, 0, 9]
    assert found.boxes_per_class.tolist() == [10, 1]
    assert found.slots == 16  # 9, up to a multiple of 8.
    assert create_statistics(Truths([[row(0)] * 8])).slots == 8
    assert create_statistics(Truths([[row(0, crowd=True)]])).slots == 8


def test_of_images_that_must_be_made_first_some_are_looked_at():
    scenes = Shapes((64, 64), 1000, endless=True)
    found = create_statistics(scenes)
    assert not found.complete and len(found.sizes) == 256 and found.slots == 100
    np.testing.assert_array_equal(found.boxes[found.image == 255], scenes[999].truth.boxes)
    assert create_statistics(Shapes((64, 64), 5)).complete  # So few that they can all be made.


def test_boxes_on_the_canvas_are_those_of_evaluation():
    source = Truths([[row(0, (0.0, 0.0, 50.0, 100.0)), row(1, (99.0, 0.0, 100.0, 10.0))]])
    boxes, labels = create_statistics(source).on_canvas((64, 64))
    # 100×200 fitted to 64×64 is 32×64; [0, 0, 50, 100] becomes [0, 0, 16, 32].
    np.testing.assert_allclose(boxes[0], [0, 0, 16, 32])
    truth = source[0].truth
    expected, _ = transforms.letterbox_boxes(
        truth.boxes, truth.size, transforms.fit(truth.size, (64, 64))
    )
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)
    assert labels.tolist() == [0, 1]


def test_images_of_rare_classes_are_repeated():
    # 16 images with cats, one of them with a dog: f(dog) = 1/16; √(1/4 · 16) = 2.
    source = Truths([[row(0)] for _ in range(15)] + [[row(0), row(1), row(1)]])
    factors = create_statistics(source).repeat_factors(0.25)
    np.testing.assert_allclose(factors, [1.0] * 15 + [2.0])
    # 15 images of 16 are more than the threshold asks for; without boxes once.
    empty = create_statistics(Truths([[], [row(0)]])).repeat_factors(0.5)
    np.testing.assert_allclose(empty, [1.0, 1.0])


NAMES = ClassNames.from_names(["cat", "dog", "bird: any"])


def test_rare_classes_weigh_more_and_boxes_one_on_average():
    # 1/√100 and 1/√4 are 0.1 and 0.5; their mean over 104 boxes is 12/104.
    found = class_weights("auto", NAMES, np.array([100, 4, 0]))
    np.testing.assert_allclose(found, [0.1 * 104 / 12, 0.5 * 104 / 12, 1.0])
    np.testing.assert_allclose(np.sum(found * [100, 4, 0]) / 104, 1.0)


def test_weights_may_be_written_out():
    found = class_weights("dog: 2.5, bird: any:0", NAMES, None)
    np.testing.assert_allclose(found, [1.0, 2.5, 0.0])
    assert class_weights("", NAMES, None) is None


@pytest.mark.parametrize("text", ["cow:2", "cat", "cat:", "cat:-1", "cat:inf", "auto,cat:2"])
def test_weights_that_are_none_name_the_classes(text):
    with pytest.raises(ValueError, match="isn't a class and its weight.*cat, dog, bird: any"):
        class_weights(text, NAMES, None)
