import itertools
import time

import pytest

from effdet_jax.benchmark import fusion
from tests.tiny import tiny_config


def test_ratios_are_of_the_same_round():
    """Softmax takes twice the time of fast fusion in each round, whatever else slows the round."""
    seconds = {"fast": [0.1, 0.4, 0.2], "softmax": [0.2, 0.8, 0.4], "sum": [0.1, 0.2, 0.16]}
    fast, softmax, plain = fusion.compare(seconds)
    assert (fast["median_ms"], fast["ratio"]) == (200.0, 1.0)
    assert softmax == {
        "fusion": "softmax",
        "median_ms": 400.0,
        "ratio": 2.0,
        "low": 2.0,
        "high": 2.0,
    }
    # 1, 0.5 and 0.8: quartiles half-way to the neighbours.
    assert (plain["ratio"], plain["low"], plain["high"]) == (0.8, 0.65, 0.9)


def test_all_take_turns_after_warming_up(monkeypatch):
    called, clock = [], itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = fusion._take_turns(calls, 2)
    assert "".join(called) == "abcabc" + "abc" + "bca"
    assert seconds == {"a": [1, 1], "b": [1, 1], "c": [1, 1]}


def test_a_table_for_people():
    row = {"task": "train", "fusion": "softmax", "median_ms": 12.34, "ratio": 1.02}
    report = {
        "model": "efficientdet-d0",
        "image_size": [64, 96],
        "batch_size": 2,
        "dtype": "float32",
        "device": "cpu",
        "jax": "0.10.2",
        "rounds": 20,
        "rows": [{**row, "low": 1.0, "high": 1.05}],
    }
    text = fusion.lines(report)
    assert text[0].startswith("efficientdet-d0 at 64×96, batch 2, float32, cpu, jax 0.10.2, 20 ")
    assert text[-1] == "| train | softmax | 12.3 | 1.02 | 1.00–1.05 |"


@pytest.mark.slow
def test_fusions_are_measured():
    report = fusion.measure(tiny_config(), ["softmax"], ["forward"], rounds=2)
    assert [(row["task"], row["fusion"]) for row in report["rows"]] == [
        ("forward", "fast"),
        ("forward", "softmax"),
    ]
    assert all(row["median_ms"] > 0 for row in report["rows"])
