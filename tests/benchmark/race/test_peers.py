import importlib.util
import json

import numpy as np
import pytest

from effdet_jax.benchmark.race import peers
from effdet_jax.benchmark.race.case import Case
from effdet_jax.benchmark.race.contestant import Contestant, RaceError

CASE = Case("forward", "d0", 1, (512, 512))


def contestant(name, result=(1.0, -4.0)):
    """Stands in for a process that is ready."""
    found = Contestant.__new__(Contestant)
    found.name, found.result = name, np.array(result)
    return found


def main(only, device="cpu", batch_size=0, against="", turns=1, seconds=0.0):
    return peers.main(only, device, batch_size, against, turns, seconds, as_json=True)


@pytest.fixture
def raced(monkeypatch):
    """Goals that `main` would race, and the folder of the other version."""
    calls = []
    monkeypatch.setattr(
        peers, "compare", lambda goals, against, **_: calls.append((goals, against))
    )
    return calls


def test_contestants_that_compute_something_else_are_named():
    same = [contestant("effdet_jax"), contestant("A", (1.0, -4.003))]
    peers.check_equal(CASE, same)
    message = "'B' and 'effdet_jax' differ by 5.0e-03 of the largest value"
    with pytest.raises(RaceError, match=message):
        peers.check_equal(CASE, [*same, contestant("B", (1.02, -4.0))])
    with pytest.raises(RaceError, match=r"'C' gives \(1,\) values, 'effdet_jax' \(2,\)"):
        peers.check_equal(CASE, [*same, contestant("C", (1.0,))])
    with pytest.raises(RaceError, match="differ by nan"):
        peers.check_equal(CASE, [*same, contestant("D", (np.nan, -4.0))])


def test_a_batch_size_takes_the_place_of_all(raced):
    assert main("forward d0", "gpu", batch_size=2) == 0
    ((goals, against),) = raced
    assert [goal.case.title for goal in goals] == ["forward d0 512 batch 2 bfloat16"]
    assert against == ""


def test_another_version_takes_the_place_of_all_peers(raced, tmp_path):
    runner = tmp_path / "effdet_jax" / "benchmark" / "race" / "runner.py"
    runner.parent.mkdir(parents=True)
    runner.touch()
    assert main("forward d0", against=str(tmp_path)) == 0
    ((goals, against),) = raced
    titles = [goal.case.title for goal in goals]
    assert titles == ["forward d0 512 batch 1", "forward d0 512 batch 8"]
    targets = (((f"effdet_jax in {tmp_path}",), 1.0),)
    assert against == str(tmp_path) and {goal.targets for goal in goals} == {targets}


def test_a_folder_without_this_package_is_named(raced, tmp_path):
    with pytest.raises(RaceError, match=f"--against={tmp_path}: there is no .*runner.py; name a"):
        main("forward d0", against=str(tmp_path))
    assert not raced


def test_unknown_cases_list_the_known():
    with pytest.raises(RaceError, match="no case begins with 'sleep'; there are forward d0") as no:
        main("sleep")
    assert "bfloat16" not in str(no.value)
    with pytest.raises(RaceError, match="there are forward d0 512 batch 1 bfloat16;"):
        main("detect", "gpu")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("effdet"), reason="needs effdet_jax[peers]")
def test_pytorch_agrees_on_detections_and_is_timed(capsys):
    assert main("postprocess", seconds=0.1) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["case"] == "postprocess d0 512 batch 1" and row["ratio"] > 0
