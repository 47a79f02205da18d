"""The comparison with a double for the training: what is trained, skipped, written and refused."""

import json
import os

import pytest

from effdet_jax import config as configs
from effdet_jax.benchmark.ablation import learn
from effdet_jax.benchmark.ablation.learn import LearnError

ENTRIES = {"base": 0.30, "fpn": 0.20, "panet": 0.25, "softmax": 0.31}


class Training:
    """Writes into a workdir what a training leaves there; AP is the entry's and grows by seed."""

    def __init__(self):
        self.folders, self.stops_at = [], None

    def __call__(self, config, workdir):
        name = os.path.basename(workdir)
        self.folders.append(name)
        print("a training's own words")
        with open(os.path.join(workdir, "config.json"), "w", encoding="utf-8") as file:
            json.dump(configs.plain(config), file)
        entry, seed = name.split("-seed")
        assert config.seed == int(seed)
        row = {"step": 600, "eval/AP": ENTRIES[entry] + 0.1 * config.seed}
        if name == self.stops_at:
            row = {"step": 300, "loss/total": 1.0}
        with open(os.path.join(workdir, "metrics.jsonl"), "a", encoding="utf-8") as file:
            print(json.dumps(row), file=file)
        return {}


@pytest.fixture
def training(monkeypatch):
    double = Training()
    monkeypatch.setattr(learn, "train", double)
    monkeypatch.setattr(learn, "count", lambda _: {"parameters": 12, "multiply_adds": 34})
    weights = {step: {"P6_td": {"P6_in": 0.6, "P7_in": 0.4}} for step in (0, 600)}
    monkeypatch.setattr(learn, "weight_history", lambda folder: weights)
    return double


def start(output, **changes):
    defaults = {
        "groups": ["pyramids", "fusions"],
        "only": ["fpn", "softmax"],
        "seeds": 2,
        "steps": 600,
    }
    return learn.main(str(output), **{**defaults, **changes})


def test_every_entry_is_trained_with_every_seed_and_compared(training, tmp_path, capsys):
    assert start(tmp_path) == 0
    names = ["base", "fpn", "softmax"]  # Both groups share the run that changes nothing.
    assert training.folders == [f"{name}-seed{seed}" for seed in (0, 1) for name in names]
    results = json.loads((tmp_path / "results.json").read_text())
    bifpn, fpn = results["groups"]["pyramids"]["entries"]
    assert bifpn["name"] == "bifpn" and bifpn["AP"] == pytest.approx([0.3, 0.4])
    assert fpn["differences"] == pytest.approx([-0.1, -0.1]) and fpn["is_told_apart"]
    assert fpn["parameters"] == 12 and fpn["multiply_adds"] == 34
    assert results["groups"]["fusions"]["entries"][1]["difference"] == pytest.approx(0.01)
    assert results["fusion_weights"]["softmax"]["600"]["P6_td"]["P6_in"] == 0.6
    printed = capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() in printed
    assert "a training's own words" not in printed
    assert "words" in (tmp_path / "runs" / "fpn-seed1" / "log.txt").read_text()
    assert "2 seeds tell from bifpn: fpn (-0.100)" in (tmp_path / "report.html").read_text()


def test_what_was_trained_is_not_trained_again(training, tmp_path):
    start(tmp_path, seeds=1)
    training.folders.clear()
    start(tmp_path, only=["panet", "softmax"])
    assert training.folders == ["panet-seed0", "base-seed1", "panet-seed1", "softmax-seed1"]


def test_a_training_that_was_stopped_ends_the_command_and_goes_on_with_it(
    training, tmp_path, capsys
):
    training.stops_at = "fpn-seed0"
    assert start(tmp_path) == 0
    assert training.folders == ["base-seed0", "fpn-seed0"]
    assert "stopped: the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()
    training.stops_at = None
    start(tmp_path)
    assert training.folders[2:4] == ["fpn-seed0", "softmax-seed0"]
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ["pyramid"]}, "--groups=pyramid: there are pyramids, fusions, scaling"),
        ({"groups": ["fusions"], "only": ["fpn"]}, "--only=fpn: these groups have fast, softmax"),
    ],
)
def test_what_is_not_there_is_refused(training, tmp_path, changes, message):
    with pytest.raises(LearnError, match=message):
        start(tmp_path, **changes)
    assert training.folders == []


def test_a_folder_is_asked_for(training):
    with pytest.raises(LearnError, match="--output=runs/ablations"):
        start("")


def test_runs_of_other_steps_are_not_mixed(training, tmp_path):
    start(tmp_path, seeds=1)
    with pytest.raises(LearnError, match="shapes_train is 4800 and would be 1600: give another"):
        start(tmp_path, steps=200)
