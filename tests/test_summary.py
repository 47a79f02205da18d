import json

import pytest

from effdet_jax import paper, summary
from effdet_jax.config import ConfigError, get_config
from effdet_jax.report import charts
from effdet_jax.spec import model_spec
from tests.tiny import tiny_spec


@pytest.fixture
def d0():
    config = get_config()
    config.model.name = "efficientdet-d0"
    return config


def test_json_is_one_object_with_totals(d0, capsys):
    assert summary.main(d0, as_json=True, num_classes=90) == 0
    report = json.loads(capsys.readouterr().out)
    # The parameters of the reference's D0; 49104 = 9 · (64² + 32² + 16² + 8² + 4²).
    assert report["parameters"]["total"] == 3_880_067
    assert report["anchors"]["P3"] == 9 * 64**2 and report["anchors"]["total"] == 49_104
    for what in ("parameters", "multiply_adds", "profiled", "outputs", "anchors"):
        counts = dict(report[what])
        total = counts.pop("total")
        assert total == sum(counts.values()) > 0
    # Three separable convolutions of 64 channels and one to 9 · 90 logits, per pyramid cell.
    assert report["outputs"]["class_head"] == (3 * 128 + 64 + 810) * (49_104 // 9)
    assert report["activations"]["backbone"]["P5"] == [1, 16, 16, 320]
    assert report["activations"]["class_head"]["P7"] == [1, 4, 4, 9, 90]


def test_the_table_shows_the_same(d0, capsys):
    summary.main(d0, as_json=False, num_classes=3)
    text = capsys.readouterr().out
    assert "efficientdet-d0: 512×512, 3 classes, efficientnet-b0, 3 × bifpn of 64" in text
    assert "49,104" in text and "64×64×9×3" in text


@pytest.mark.parametrize(
    ("spec", "described"),
    [
        (tiny_spec("efficientdet-d0"), " of 64 channels (fast fusion)"),
        (model_spec("efficientdet-d6"), "8 × bifpn of 384 channels (sum fusion)"),
        # Its nodes name their own merges: the spec's fusion is nowhere in it.
        (model_spec("nasfpn-r50"), "7 × nasfpn of 256 channels, heads"),
        (model_spec("retinanet-r50"), "resnet50, retinanet of 256 channels, heads 4 deep"),
    ],
)
def test_the_title_says_what_the_pyramid_has(spec, described):
    empty = {"parameters": {}, "anchors": dict.fromkeys([f"P{n}" for n in spec.levels], 0)}
    empty["anchors"]["total"] = 0
    shapes = {f"P{n}": [1, 1] for n in spec.levels}
    empty["activations"] = {"pyramid": shapes, "class_head": shapes}
    assert described in summary._lines(spec, empty)[0]


def test_a_model_or_a_table(d0):
    for config, table in ((None, None), (d0, "2")):
        with pytest.raises(ConfigError, match=r"--table=1\|2\|4\|5\|fig6: give one"):
            summary.main(config, as_json=False, num_classes=90, table=table)


def test_tables_print_as_text_and_json(capsys):
    summary.main(None, as_json=False, num_classes=90, table="1")
    assert "| efficientdet-d2  | 768  | efficientnet-b2 | 112 " in capsys.readouterr().out
    summary.main(None, as_json=True, num_classes=90, table="1")
    assert json.loads(capsys.readouterr().out)[0]["channels"] == 64


@pytest.fixture
def figure_6(monkeypatch):
    rows = [
        {"name": name, "phi": phi, "multiply_adds": factor * phi * 10**9}
        for name, factor in (("compound scaling", 10), ("scale by image size", 2))
        for phi in (1, 2, 3)
    ]
    monkeypatch.setitem(paper.TABLES, "fig6", lambda: rows)


@pytest.mark.skipif(not charts.available(), reason="needs the extra 'report'")
def test_figure_6_is_drawn(figure_6, tmp_path, capsys):
    file = tmp_path / "fig6.svg"
    summary.main(None, as_json=False, num_classes=90, table="fig6", output=str(file))
    text = file.read_text()
    assert text.startswith("<svg") and "multiply-adds (billions)" in text
    assert "scale by image size" in text and "φ" in text
    assert str(file) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "output", "message"),
    [
        ("2", "t.svg", "only --table=fig6 is drawn"),
        ("fig6", "fig6.png", r"give FILE\.svg"),
        ("fig6", "fig6.svg", r"pip install 'effdet_jax\[report\]'"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_once(figure_6, monkeypatch, table, output, message):
    monkeypatch.setattr(charts, "available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        summary.main(None, as_json=False, num_classes=90, table=table, output=output)


def test_a_classifier_has_parameters_alone(d0, capsys):
    d0.model.name = "efficientnet-lite0"
    summary.main(d0, as_json=False, num_classes=1000)
    text = capsys.readouterr().out
    assert "efficientnet-lite0: 224×224, 1000 classes, efficientnet-lite0, 1280 channels" in text
    assert "4,652,008" in text and "anchors" not in text
