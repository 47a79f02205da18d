import json
import os
import textwrap

import numpy as np
import pytest

from effdet_jax.benchmark.race import contestant
from effdet_jax.benchmark.race.case import Case
from effdet_jax.benchmark.race.contestant import Contestant, RaceError, race

CASE = Case("forward", "d0", 1, (512, 512))


@pytest.fixture
def package(tmp_path):
    """A folder with another `effdet_jax`, whose runner says what it is told."""
    runner = tmp_path / "other" / "effdet_jax" / "benchmark" / "race" / "runner.py"
    runner.parent.mkdir(parents=True)
    for folder in (runner.parent, runner.parents[1], runner.parents[2]):
        (folder / "__init__.py").touch()
    runner.write_text(
        textwrap.dedent(
            """
            import json, os, sys
            import numpy as np
            job = json.loads(sys.stdin.readline())
            path = os.path.join(job["folder"], "result.npy")
            np.save(path, [1.0, 2.0])
            job["tunables"] = os.environ["GLIBC_TUNABLES"]
            with open(os.path.join(job["folder"], "job.json"), "w") as file:
                json.dump(job, file)
            print("noise from a library")
            print(json.dumps({"result": path, "first_seconds": 2.5}), flush=True)
            for line in sys.stdin:
                message = json.loads(line)
                answer = {"peak_mib": 300.0} if "end" in message else {"milliseconds": [3.0, 5.0, 40.0]}
                print(json.dumps(answer), flush=True)
                if "end" in message:
                    break
            """
        )
    )
    return tmp_path / "other"


def test_a_contestant_runs_the_package_of_its_folder(package, tmp_path):
    other = Contestant("effdet_jax in other", CASE, tmp_path, package)
    try:
        job = json.loads((tmp_path / "job.json").read_text())
        assert job["name"] == "effdet_jax in other" and Case.from_dict(job["case"]) == CASE
        assert job["tunables"] == CASE.environment["GLIBC_TUNABLES"]
        np.testing.assert_array_equal(other.result, [1.0, 2.0])
        other.run(0.1)
        assert other.milliseconds == [[3.0, 5.0, 40.0]] and other.median == 5.0
        other.finish()
        assert other.peak_mib == 300.0 and other.first_seconds == 2.5
    finally:
        other.kill()


def test_a_median_is_that_of_the_turns():
    found = Contestant.__new__(Contestant)
    found.milliseconds = [[9, 10, 15], [29, 30, 35], [19, 20, 25]]
    assert found.median == 20


def test_a_contestant_that_dies_says_why(tmp_path):
    with pytest.raises(RaceError, match=r"(?s)'effdet_jax' ended with 1:.*weights\.safetensors"):
        Contestant("effdet_jax", CASE, tmp_path)


def test_a_race_goes_round_and_measures_the_load(monkeypatch):
    monkeypatch.setattr(contestant, "REST_SECONDS", 0.0)
    # (all processors, this race's own, wall clock) before and after each turn: 3 of 4 processor
    # seconds by others in one, none in five.
    turns = [((0, 0, 0), (4, 1, 4 / os.cpu_count()))] + 5 * [((0, 0, 0), (2, 2, 1))]
    clock = iter([reading for turn in turns for reading in turn])
    monkeypatch.setattr(contestant, "_processor_seconds", lambda: next(clock))
    order = []

    class Fake(Contestant):
        def __init__(self, name):
            self.run = lambda seconds: order.append((name, seconds))

    load = race([Fake("a"), Fake("b")], turns=3, seconds=0.5)
    assert order == [("a", 0.5), ("b", 0.5)] * 3
    assert (load.median, load.largest) == (0.0, 0.75)


def test_processor_seconds_count_what_this_process_uses():
    busy, own, wall = contestant._processor_seconds()
    while contestant._processor_seconds()[1] - own < 0.2:
        sum(range(10_000))
    later = contestant._processor_seconds()
    assert later[0] - busy >= 0.15 and later[2] > wall
