import builtins
import importlib.util

import numpy as np
import pytest

from effdet_jax.report import charts
from effdet_jax.report.charts import COLOURS, dot_chart, heat_map, line_chart


def values(spec):
    """The rows that a specification holds; Altair stores them aside."""
    (rows,) = spec["datasets"].values() if "datasets" in spec else [spec["data"]["values"]]
    return rows


@pytest.fixture
def altair():
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")


def test_points_that_are_no_numbers_are_left_out(altair):
    lines = {"a": ([1, 2, 3], [0.5, np.nan, 0.25]), "nothing": ([], [])}
    assert values(line_chart(lines, "step", "loss")) == [
        {"name": "a", "x": [1.0, 3.0], "y": [0.5, 0.25]}
    ]
    (layer, _) = line_chart(lines, "step", "loss")["layer"]
    assert layer["encoding"]["color"]["scale"]["domain"] == ["a", "nothing"]  # As elsewhere.
    assert line_chart({"nothing": ([], [])}, "step", "loss") is None


def test_long_lines_are_means_of_equal_groups(altair):
    steps = np.arange(1000)
    (row,) = values(line_chart({"a": (steps, steps % 2)}, "step", "loss"))
    assert len(row["x"]) == 334  # Groups of 3; the last has one.
    assert row["x"][:2] == [1.0, 4.0] and row["y"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert row["x"][-1] == 999.0 and row["y"][-1] == 1.0


def test_a_logarithm_needs_positive_values(altair):
    def scale(y):
        spec = line_chart({"a": ([1, 2], y)}, "step", "loss", log=True)
        return spec["layer"][0]["encoding"]["y"].get("scale", {}).get("type")

    assert scale([1.0, 2.0]) == "log" and scale([0.0, 2.0]) is None


def test_many_lines_have_one_that_is_chosen_and_few_have_colours(altair):
    few = line_chart({str(n): ([0, 1], [0, 1]) for n in range(len(COLOURS))}, "x", "y")
    many = line_chart({str(n): ([0, 1], [0, 1]) for n in range(len(COLOURS) + 1)}, "x", "y")

    def lists(spec):
        return [one["bind"]["name"]["options"] for one in spec["params"] if "bind" in one]

    assert lists(few) == [] and lists(many) == [[str(n) for n in range(len(COLOURS) + 1)]]
    assert few["layer"][0]["encoding"]["color"]["scale"]["range"] == list(COLOURS)


def test_cells_are_shaded_by_their_share_of_the_row(altair):
    rows = values(heat_map(np.array([[3, 1], [0, 0]]), ["cat", "background"]))
    assert rows == [
        {"t": "cat", "p": "cat", "n": 3, "s": 0.75},
        {"t": "cat", "p": "background", "n": 1, "s": 0.25},
    ]
    assert heat_map(np.zeros((2, 2)), ["cat", "background"]) is None


def test_the_scripts_are_whole_and_below_a_megabyte(altair):
    scripts = charts.library()
    assert "vegaEmbed" in scripts and "</script" not in scripts
    assert len(scripts) < 1_000_000


def test_without_the_libraries_there_is_no_chart(monkeypatch):
    real, found = builtins.__import__, importlib.util.find_spec

    def refuse(name, *arguments, **options):
        assert name.split(".")[0] not in ("altair", "vl_convert")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "altair" else found(name)
    )
    assert not charts.available()
    assert line_chart({"a": ([1], [1])}, "step", "loss") is None
    assert heat_map(np.ones((1, 1)), ["cat"]) is None


def test_each_value_is_a_point_in_the_row_of_its_name(altair):
    spec = dot_chart({"b": (0.25, 0.5), "a": (0.75,)}, "AP")
    assert values(spec) == [
        {"name": "b", "x": 0.25},
        {"name": "b", "x": 0.5},
        {"name": "a", "x": 0.75},
    ]
    points, means = spec["layer"]
    assert points["encoding"]["y"]["sort"] == ["b", "a"]  # Not by the alphabet.
    assert means["encoding"]["x"]["aggregate"] == "mean"
    assert dot_chart({"a": ()}, "AP") is None
