import importlib.util

import pytest

from effdet_jax.benchmark.ablation.comparison import compare
from effdet_jax.benchmark.ablation.page import markdown, write_ablation_page

COSTS = {name: {"parameters": 1234, "multiply_adds": 5678} for name in ("bifpn", "fpn")}
GROUPS = {"pyramids": compare({"bifpn": (0.3, 0.4), "fpn": (0.2, 0.25)})}
HISTORIES = {
    "fast": {
        0: {"P6_td": {"P6_in": 0.5, "P7_in": 0.5}},
        9: {"P6_td": {"P6_in": 0.6, "P7_in": 0.4}},
    },
    "softmax": {9: {"P6_td": {"P6_in": 0.7, "P7_in": 0.3}}},
}


def test_a_row_of_the_table_has_mean_spread_and_differences():
    lines = markdown("What was run.", GROUPS, COSTS, HISTORIES).splitlines()
    assert lines[0] == "What was run." and "## pyramids" in lines
    # √((0.05² + 0.05²) / 1) = 0.0707.
    assert "| bifpn | 0.350 ± 0.071 | 0.300, 0.400 | – | – | 1,234 | 5,678 |" in lines
    assert (
        "| fpn | 0.225 ± 0.035 | 0.200, 0.250 | -0.125 | -0.100, -0.150 | 1,234 | 5,678 |" in lines
    )
    assert "| P6_td | P6_in | 0.600 | 0.700 |" in lines
    assert any(line.startswith("2 seeds don't tell from bifpn: fpn.") for line in lines)


def test_without_fusions_there_are_no_weights():
    assert "fusion weights" not in markdown("", GROUPS, COSTS, {})


def test_the_page_has_a_chart_per_group_and_node(tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    write_ablation_page(str(tmp_path / "a.html"), "What was run.", GROUPS, COSTS, HISTORIES)
    text = (tmp_path / "a.html").read_text("utf-8")
    assert "What was run." in text and ">0.350 ± 0.071<" in text
    assert text.count('<figure class="card chart">') == 2
    for line in ("P6_in, fast", "P7_in, fast", "P6_in, softmax", "P7_in, softmax"):
        assert f'"name":"{line}"' in text


def test_without_the_libraries_the_page_has_tables(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "altair" else real(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    write_ablation_page(str(tmp_path / "a.html"), "", GROUPS, COSTS, HISTORIES)
    text = (tmp_path / "a.html").read_text("utf-8")
    assert "<figure" not in text and ">0.350 ± 0.071<" in text and "pip install" in text
