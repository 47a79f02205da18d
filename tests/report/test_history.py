import pytest

from effdet_jax.report.history import History
from tests.reports import write_metrics


def test_lines_are_by_step_and_without_gaps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss/total": 2.0}\n{"step": 2, "loss/total": null}\n'
        '{"step": 2, "eval/AP": 0.1}\n{"step": 3, "loss/total": 1.0}\n{"step": 4, "lo'
    )
    history = History(str(path))
    assert history.line("loss/total") == ([1, 3], [2.0, 1.0])
    assert history.last("loss/total") == 1.0 and history.last("eval/AP50") is None
    assert history.step == 3 and history.evaluations == [{"step": 2, "eval/AP": 0.1}]


def test_best_and_time(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl")
    history = History(str(tmp_path / "metrics.jsonl"))
    assert history.best()["step"] == 100
    # 100 steps of 8 images, 40 images a second: 20 s.
    assert history.hours(batch_size=8) == pytest.approx(20 / 3600)
    assert history.hours(batch_size=0) is None  # It isn't known.


def test_a_run_without_numbers_is_empty(tmp_path):
    history = History(str(tmp_path / "nothing.jsonl"))
    assert history.best() is None and history.hours(8) is None and history.step == 0
    assert history.line("loss/total") == ([], [])
