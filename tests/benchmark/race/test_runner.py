import io
import json

import numpy as np
import pytest

from effdet_jax.benchmark.race import jax_peer, runner


@pytest.mark.parametrize("name", ["effdet_jax", "effdet_jax in ../before"])
def test_versions_of_this_package_are_run_alike(name):
    assert runner.contestant_module(name) is jax_peer


def test_a_turn_has_two_runs_at_the_least_and_one_uncounted():
    calls = []
    assert len(runner._turn(lambda: calls.append(1), seconds=0.0)) == 2 and len(calls) == 3


def test_it_prepares_runs_and_ends_as_it_is_told(tmp_path, monkeypatch, capsys):
    calls = []

    def prepare(name, case, folder):
        assert (name, case.title, folder) == ("effdet_jax", "forward d0 512 batch 1", tmp_path)
        return lambda: calls.append(1), np.array([3.0])

    case = {"task": "forward", "model": "d0", "batch_size": 1, "image_size": [512, 512]}
    messages = [
        {"name": "effdet_jax", "case": case, "folder": str(tmp_path)},
        {"seconds": 0.0},
        {"end": True},
        {"seconds": 1e9},  # Isn't read any more.
    ]
    monkeypatch.setattr(jax_peer, "prepare", prepare)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(json.dumps, messages))))
    runner.main()
    ready, turn, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert np.load(ready["result"]) == [3.0] and ready["first_seconds"] >= 0
    assert len(turn["milliseconds"]) == 2
    assert len(calls) == 1 + runner.WARMUP_RUNS + 1 + 2
    assert end["peak_mib"] is None or end["peak_mib"] > 10


def test_the_peak_is_of_what_runs_not_of_what_compiled():
    if runner._peak_mib() is None:
        pytest.skip("the system doesn't tell")
    before = runner._peak_mib()
    np.ones(64 * 2**17)  # 64 MiB, freed at once.
    assert runner._peak_mib() >= before
    runner._forget_peak()
    forgotten = runner._peak_mib()
    held = np.ones(64 * 2**17)
    assert runner._peak_mib() > forgotten + 48 and held[0] == 1
