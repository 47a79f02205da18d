import math

import pytest

from effdet_jax.benchmark.ablation.comparison import compare, verdict


def test_a_difference_is_one_where_it_exceeds_what_seeds_do():
    """Differences b: 0.1, 0.2 and c: −0.1, 0.1. Their variances are 0.005 and 0.02, pooled 0.0125
    with two degrees of freedom; t is 4.3027, so the margin 4.3027 · √(0.0125 / 2) = 0.3402."""
    rows = compare({"a": (0.3, 0.4), "b": (0.4, 0.6), "c": (0.2, 0.5)})
    assert [row.name for row in rows] == ["a", "b", "c"]
    assert rows[0].differences == () and rows[0].difference is None
    assert rows[1].differences == pytest.approx((0.1, 0.2))
    assert rows[1].difference == pytest.approx(0.15)
    assert rows[0].mean == pytest.approx(0.35) and rows[0].spread == pytest.approx(
        0.1 / math.sqrt(2)
    )
    assert rows[1].margin == pytest.approx(0.3402, abs=1e-4)
    assert rows[2].margin == rows[1].margin
    assert [row.is_told_apart for row in rows] == [False, False, False]
    assert verdict(rows).startswith("2 seeds don't tell from a: b, c. ")
    assert "exceeds 0.340" in verdict(rows)


def test_more_seeds_and_like_differences_tell_entries_apart():
    """Both differ from a by 0.02 ± 0.001 with three seeds: variance 1e-6, four degrees of freedom, t
    2.7764; 2.7764 · √(1e-6 / 3) = 0.0016. d has the mean of none."""
    a = (0.30, 0.35, 0.32)
    rows = compare(
        {
            "a": a,
            "b": [value + more for value, more in zip(a, (0.019, 0.020, 0.021))],
            "c": [value - less for value, less in zip(a, (0.019, 0.020, 0.021))],
        }
    )
    assert rows[1].margin == pytest.approx(0.0016, abs=5e-5)
    assert [row.is_told_apart for row in rows] == [False, True, True]
    assert verdict(rows).startswith("3 seeds tell from a: b (+0.020), c (-0.020). A difference")


def test_differences_of_two_signs_are_none():
    """The mean of c, 0.05, exceeds the margin of 2.0096 · √(…): with many like entries it is small."""
    values = {"a": (0.3, 0.3)} | {f"b{n}": (0.4, 0.4) for n in range(50)} | {"c": (0.29, 0.41)}
    row = compare(values)[-1]
    assert row.difference > row.margin and not row.is_told_apart


def test_equal_entries_are_not_told_apart():
    assert not any(row.is_told_apart for row in compare({"a": (0.3, 0.4), "b": (0.3, 0.4)}))


def test_one_seed_says_nothing():
    rows = compare({"a": (0.3,), "b": (0.5,)})
    assert rows[0].spread is None and rows[1].margin == math.inf
    assert verdict(rows) == (
        "With 1 seed nothing is known of the spread: no difference is told from chance."
    )


def test_an_entry_alone_is_compared_with_nothing():
    assert verdict(compare({"a": (0.3, 0.4)})) == "There is nothing to compare a with."
