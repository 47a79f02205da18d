import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

from effdet_jax.benchmark.race import jax_peer, peers, runner
from effdet_jax.benchmark.race.contest import Contestant, ContestError, Load, Work, race

WORK = Work("forward", "d0", 1, (512, 512))


def contestant(name, medians, result=(1.0, -4.0)):
    """Stands in for a process that has run."""
    found = Contestant.__new__(Contestant)
    found.name, found.result = name, np.array(result)
    found.milliseconds = [[ms - 1, ms, ms + 5] for ms in medians]
    found.peak_mib, found.first_seconds = 300.0, 2.0
    return found


def test_a_median_is_that_of_the_turns():
    assert contestant("a", [10, 30, 20]).median == 20


def test_rows_hold_the_fastest_of_a_group_and_the_ratio_to_it():
    found = {
        c.name: c for c in [contestant("ours", [60]), contestant("A", [80]), contestant("B", [75])]
    }
    row = peers._row(WORK, found, ("A", "B"), 0.9)
    assert row == {
        "work": "forward d0 512 batch 1",
        "peer": "B",
        "ours": 60.0,
        "best_peer": 75.0,
        "ratio": 0.8,
        "target": 0.9,
    }


def test_contestants_that_compute_something_else_are_named():
    same = [contestant("ours", [1]), contestant("A", [1], (1.0, -4.003))]
    peers.check_equal(WORK, same)
    with pytest.raises(ContestError, match="'B' and 'ours' differ by 5.0e-03 of the largest value"):
        peers.check_equal(WORK, [*same, contestant("B", [1], (1.02, -4.0))])
    with pytest.raises(ContestError, match=r"'C' gives \(1,\) values, 'ours' \(2,\)"):
        peers.check_equal(WORK, [*same, contestant("C", [1], (1.0,))])
    with pytest.raises(ContestError, match="differ by nan"):
        peers.check_equal(WORK, [*same, contestant("D", [1], (np.nan, -4.0))])


def test_a_race_goes_round_and_measures_the_load(monkeypatch):
    monkeypatch.setattr("effdet_jax.benchmark.race.contest.REST_SECONDS", 0.0)
    order = []
    some = [contestant("a", []), contestant("b", [])]
    for one in some:
        one.run = lambda seconds, name=one.name: order.append((name, seconds))
    load = race(some, turns=3, seconds=0.5)
    assert order == [("a", 0.5), ("b", 0.5)] * 3
    assert 0 <= load.median <= load.largest


def test_a_turn_has_two_runs_at_the_least_and_one_uncounted():
    calls = []
    assert len(runner._turn(lambda: calls.append(1), seconds=0.0)) == 2 and len(calls) == 3


def test_a_contestant_that_dies_says_why(tmp_path):
    with pytest.raises(ContestError, match=r"(?s)'ours' ended with 1:.*weights\.safetensors"):
        Contestant("ours", WORK, tmp_path)


def test_no_device_runs_for_another(tmp_path):
    other = "gpu" if jax.default_backend() == "cpu" else "cpu"
    work = dataclasses.replace(WORK, device=other, dtype="bfloat16")
    message = f"batch 1 bfloat16' is to run on a {other}; jax has found a"
    with pytest.raises(RuntimeError, match=message):
        jax_peer.prepare("ours", work, tmp_path)


def test_a_batch_size_takes_the_place_of_all(monkeypatch, capsys):
    raced = []
    monkeypatch.setattr(peers, "compare", lambda goals, **_: raced.extend(goals) or {})
    assert peers.main("forward d0", "gpu", 2, 1, 0.0, True) == 0
    assert [goal.work.title for goal in raced] == ["forward d0 512 batch 2 bfloat16"]


def test_unknown_works_list_the_known(capsys):
    assert peers.main("sleep", "cpu", 0, 1, 0.0, True) == 2
    error = capsys.readouterr().err
    assert "no work begins with 'sleep'; there are forward d0 512 batch 1;" in error
    assert "bfloat16" not in error
    assert peers.main("detect", "gpu", 0, 1, 0.0, True) == 2
    assert "there are forward d0 512 batch 1 bfloat16;" in capsys.readouterr().err


def test_the_table_says_what_was_reached():
    found = {c.name: c for c in [contestant("ours", [60]), contestant("A", [50])]}
    report = {
        "processor": "2 × some",
        "versions": {"jax": "1"},
        "turns": 1,
        "seconds": 1.0,
        "rows": [peers._row(WORK, found, ("A",), 1.3), peers._row(WORK, found, ("A",), 1.0)],
        "works": [peers._report_work(WORK, found, Load(0.01, 0.25))],
    }
    text = "\n".join(peers.table(report))
    assert "| 60.0 ms | A | 50.0 ms | 1.20 | 1.30 | reached |" in text
    assert "| 1.20 | 1.00 | missed |" in text and "25% in the worst" in text


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("effdet"), reason="needs effdet_jax[peers]")
def test_ours_and_pytorch_agree_on_detections_and_are_timed(capsys):
    assert peers.main("postprocess", "cpu", 0, 1, 0.1, True) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["work"] == "postprocess d0 512 batch 1" and row["ratio"] > 0
