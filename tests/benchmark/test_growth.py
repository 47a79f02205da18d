import json
import sys

import pytest

from effdet_jax.benchmark import growth
from effdet_jax.config import ConfigError, get_config


def fake_benchmark(config, works, *, batch_size, rounds):
    """Time as the pixels, memory as their root."""
    side = int(config.model.image_size or 512)
    pixels = batch_size * side**2
    rows = [{"work": work, "median_ms": pixels / 1e3, "peak_mib": pixels**0.5} for work in works]
    if "input" in works:
        rows[works.index("input")]["peak_mib"] = None
    return {"rows": rows}


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(growth, "benchmark", fake_benchmark)
    rows = list(growth.measure(get_config(), ("size", "batch"), ("forward", "input"), rounds=2))
    return {"rows": rows, "exponents": growth.exponents(rows)}


def test_growth_is_the_power_of_pixels(report):
    points = {(row["axis"], row["at"]): row["amount"] for row in report["rows"]}
    assert points["size", "1024"] == 1024**2 and points["batch", "8"] == 8 * 512**2
    found = {
        (row["axis"], row["work"], row["measure"]): row["exponent"] for row in report["exponents"]
    }
    assert found == {
        ("size", "forward", "median_ms"): 1.0,
        ("size", "forward", "peak_mib"): 0.5,
        ("size", "input", "median_ms"): 1.0,
        ("batch", "forward", "median_ms"): 1.0,
        ("batch", "forward", "peak_mib"): 0.5,
        ("batch", "input", "median_ms"): 1.0,
    }
    assert "forward: MiB grow as pixels (by batch) to the power of 0.5" in growth.lines(report)


def test_models_grow_by_their_multiply_adds(monkeypatch, capsys):
    monkeypatch.setattr(growth, "benchmark", fake_benchmark)
    models = ("efficientdet-d0", "efficientdet-d1")
    growth.main(get_config(), ("model",), models, ("forward",), rounds=2, out="", as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["at"] for row in rows] == ["efficientdet-d0", "efficientdet-d1"]
    assert [round(row["amount"] / 1e9, 1) for row in rows] == [2.5, 6.0]  # The paper, table 2.


def test_a_drawing_has_every_series(report, tmp_path):
    path = tmp_path / "growth.svg"
    growth.draw(report, str(path))
    text = path.read_text()
    assert text.count("<!-- input: power 1.00 -->") == 2 and "<!-- by batch -->" in text


def test_without_matplotlib_it_says_so_before_measuring(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = str(tmp_path / "growth.png")
    with pytest.raises(ConfigError, match=r"effdet_jax\[plot\]"):
        growth.main(get_config(), ("size",), (), ("input",), rounds=2, out=out, as_json=False)
