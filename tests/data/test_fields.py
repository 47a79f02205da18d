import math

import pytest

from effdet_jax.data.fields import flag, identity, number, numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), ("48.0", 48.0), (" 7 ", 7.0), ("80px", None), ("", None), (None, None)]
    + [(True, None), ([1], None), (math.nan, None), ("inf", None)],
)
def test_a_number_may_be_text(value, expected):
    assert number(value) == expected


def test_numbers_may_be_a_text():
    assert numbers(["1", 2, 3.5]) == [1.0, 2.0, 3.5]
    assert numbers("[5.0, 6, 7]") == [5.0, 6.0, 7.0]
    assert numbers([1, None]) is None and numbers({"x": 1}) is None and numbers(None) is None


@pytest.mark.parametrize("value", [0, 0.0, "0", False, "false", "False", "", None])
def test_a_flag_that_says_no(value):
    assert flag(value) is False


@pytest.mark.parametrize("value", [1, 1.0, "1", True, "true"])
def test_a_flag_that_says_yes(value):
    assert flag(value) is True


def test_a_flag_that_says_neither():
    assert flag(2) is None and flag("maybe") is None and flag([]) is None


def test_an_id_is_a_whole_number_or_text():
    assert identity(7) == 7 and identity("7") == "7" and identity(1.0) == 1
    assert [identity(value) for value in (1.5, True, None, [1], {})] == [None] * 5
