import dataclasses

import numpy as np
import pytest

from effdet_jax.classes import COCO, ClassNames
from effdet_jax.data.example import DataError
from effdet_jax.data.relabel import match_classes
from tests.doubles import Numbers


def test_a_source_of_the_same_classes_is_itself():
    source = Numbers(3)
    assert match_classes(source, source.class_names) is source


def test_labels_are_matched_by_name_and_ids_stay_the_sources():
    source = Numbers(2)  # Classes a (id 1) and b (id 2); image 1 has a b.
    matched = match_classes(source, ClassNames(("b", "c", "a"), (1, 2, 3)))
    # Where c has no id in the source and its own is taken, it gets the next free one.
    assert matched.class_names == ClassNames(("b", "c", "a"), (2, 4, 1))
    assert [truth.labels.tolist() for truth in matched.ground_truth()] == [[2], [0]]
    assert matched[1].truth.labels.tolist() == [0] and len(matched) == 2
    np.testing.assert_array_equal(matched[1].image, source[1].image)
    assert matched.describe(1) == source.describe(1)


def test_a_class_that_the_model_has_not_is_refused_by_name():
    with pytest.raises(DataError, match="the model has no class 'b'; it has 2: a, x"):
        match_classes(Numbers(2), ClassNames.from_names(["a", "x"]))


def test_a_few_of_coco_classes_are_matched_to_all():
    source = Numbers(2)
    source.class_names = ClassNames(("person", "dog"), (1, 7))
    names = match_classes(source, COCO).class_names
    assert names.ids[0] == 1 and names.ids[COCO.names.index("dog")] == 7
    assert names.ids[COCO.names.index("train")] == 91  # COCO's own id of it, 7, is taken.


def test_pixels_of_masks_are_matched_too():
    class Masked(Numbers):
        def __getitem__(self, index):
            mask = np.array([[0, 1, 2, 255]], np.uint8)
            return dataclasses.replace(super().__getitem__(index), mask=mask)

    matched = match_classes(Masked(1), ClassNames(("b", "c", "a"), (1, 2, 3)))
    assert matched[0].mask.tolist() == [[0, 3, 1, 255]]
