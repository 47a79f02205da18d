import json

import pytest

from effdet_jax.classes import COCO, COCO_NAMES, ClassNames
from tests.conftest import shared


def test_coco_index_is_id_minus_one():
    assert len(COCO_NAMES) == 80
    assert COCO.index_of_id()[90] == 89 == COCO.index_of_name()["toothbrush"]
    assert COCO.names[11] == "unused 12"


def test_coco_categories_are_recognised():
    content = json.loads(shared("data/coco_slice/annotations/instances_val2017.json").read_text())
    assert ClassNames.from_categories(content["categories"]) is COCO
    assert ClassNames.from_names(list(COCO_NAMES.values())) is COCO


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (9, 2, 5), (2, 400, 31)])
def test_any_ids_become_indices_in_their_order(ids):
    labels = ClassNames.from_categories([{"id": id_, "name": f"n{id_}"} for id_ in ids])
    assert labels.ids == tuple(sorted(ids))
    assert labels.names == tuple(f"n{id_}" for id_ in sorted(ids))
    assert [labels.index_of_id()[id_] for id_ in sorted(ids)] == [0, 1, 2]


def test_classes_without_names_are_numbered_and_ninety_are_cocos():
    assert ClassNames.numbered(90) is COCO
    assert ClassNames.numbered(2) == ClassNames(("class 1", "class 2"), (1, 2))


def test_a_category_without_a_name_is_called_by_its_id():
    assert ClassNames.from_categories([{"id": 7}]).names == ("class 7",)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "no categories"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "id listed more than once: 1"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "name listed more than once: a"),
    ],
)
def test_bad_category_lists_say_what_is_wrong(categories, message):
    with pytest.raises(ValueError, match=message):
        ClassNames.from_categories(categories)


def test_difference_names_the_first_class_that_differs():
    labels = ClassNames(("a", "b"), (1, 2))
    assert labels.difference(ClassNames(("a", "b"), (1, 2))) == ""
    assert "class 1 is 'b' (id 2) against 'c' (id 2)" == labels.difference(
        ClassNames(("a", "c"), (1, 2))
    )
    assert "2 classes (a, b) against 1 (a)" == labels.difference(ClassNames(("a",), (1,)))


def test_labels_survive_json():
    labels = ClassNames(("a", "b"), (4, 9))
    assert ClassNames.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
