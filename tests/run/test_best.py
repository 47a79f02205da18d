import json

import pytest

from effdet_jax.run.best import Best, evaluations_after


def metrics(ap, ap50=0.0, ar=0.0):
    return {"eval/AP": ap, "eval/AP50": ap50, "eval/AR100": ar}


def test_the_best_is_by_its_criterion():
    by_ap, by_ap50, by_ar = Best(), Best("AP50"), Best("AR")
    first, second = metrics(0.3, 0.5, 0.6), metrics(0.2, 0.6, 0.6)
    assert [best.add(5, first) for best in (by_ap, by_ap50, by_ar)] == [True] * 3
    assert [best.add(10, second) for best in (by_ap, by_ap50, by_ar)] == [False, True, False]
    assert by_ap.value("AP") == 0.3 and by_ap50.value("AP") == 0.2 and by_ap50.step == 10


def test_patience_ends_after_so_many_without_a_better_one():
    best = Best(patience=2)
    assert best.value("AP") == -1.0 and best.add(1, metrics(0.0))
    for step, ap, exhausted in ((2, 0.0, False), (3, 0.1, False), (4, 0.1, False), (5, 0.05, True)):
        best.add(step, metrics(ap))
        assert best.exhausted is exhausted
    assert str(best) == "no better AP in 2 evaluations (best 0.100 after step 3)"
    assert not Best(since=100).exhausted  # Patience 0 is off.


def test_a_resumed_run_counts_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 4, "eval/AP": 0.3},
        {"step": 5, "loss/total": 1.0},
        {"step": 8, "eval/AP": 0.2},
    ]
    rows.append({"step": 12, "eval/AP": 0.1})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 16, "ev')
    assert evaluations_after(str(path), 4, 8) == 1 and evaluations_after(str(path), 0, 16) == 3
    assert evaluations_after(str(tmp_path / "none"), 0, 9) == 0
    assert evaluations_after(str(path), 0, 16, "AP50") == 0  # It wasn't measured.
    resumed = Best(patience=2, metrics=metrics(0.3), step=4, since=1)
    assert not resumed.add(12, metrics(0.1)) and resumed.exhausted


def test_coming_by_the_best_once_more_is_not_a_worse_one():
    """Killed after the best of step 4 was saved, before the last was: step 4 is done again."""
    resumed = Best(patience=1, metrics=metrics(0.3), step=4)
    assert not resumed.add(4, metrics(0.3)) and not resumed.exhausted


def test_an_unknown_criterion():
    with pytest.raises(KeyError):
        Best("F1")
