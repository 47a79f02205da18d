import sys
import types

import numpy as np
import pytest

from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.wandb_log import WandbError
from effdet_jax.run.workdir import Workdir


@pytest.fixture
def wandb(monkeypatch):
    """A module in W&B's place; `calls` is what it was told."""
    double = types.ModuleType("wandb")
    double.calls = []

    class Run:
        def __getattr__(self, name):
            return lambda *arguments, **options: double.calls.append((name, arguments, options))

    def init(**options):
        double.calls.append(("init", (), options))
        return Run()

    double.init, double.Image = init, lambda image: ("image", image.shape)
    monkeypatch.setitem(sys.modules, "wandb", double)
    return double


def test_numbers_and_pictures_go_to_the_named_project(wandb, tmp_path):
    writer = MetricWriter(Workdir(tmp_path / "mine"), wandb="birds", config={"seed": 3})
    writer.scalars(5, {"loss/total": 0.5})
    writer.image(5, "batch", np.zeros((8, 9, 3), np.uint8))
    writer.close()
    (_, _, options), *later = wandb.calls
    assert options["project"] == "birds" and options["name"] == "mine"
    assert options["config"] == {"seed": 3} and options["dir"] == str(tmp_path / "mine")
    assert later == [
        ("define_metric", ("step",), {}),
        ("define_metric", ("*",), {"step_metric": "step"}),
        ("log", ({"step": 5, "loss/total": 0.5},), {}),
        ("log", ({"step": 5, "batch": ("image", (8, 9, 3))},), {}),
        ("finish", (), {}),
    ]


def test_a_run_that_goes_on_is_the_same_run(wandb, tmp_path):
    for name in ("a", "a", "b"):
        MetricWriter(Workdir(tmp_path / name), wandb="birds").close()
    first, second, other = [call[2] for call in wandb.calls if call[0] == "init"]
    assert first["id"] == second["id"] != other["id"] and first["resume"] == "allow"


def test_nothing_is_sent_unless_a_project_is_named(wandb, tmp_path):
    writer = MetricWriter(Workdir(tmp_path))
    writer.scalars(1, {"loss/total": 0.5})
    writer.close()
    assert wandb.calls == [] and not (tmp_path / "wandb_id").exists()


def test_the_missing_library_is_named_with_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        WandbError, match=r"wandb=birds needs W&B: pip install 'effdet_jax\[wandb\]'"
    ):
        MetricWriter(Workdir(tmp_path), wandb="birds")
