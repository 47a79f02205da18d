import json

import pytest

from effdet_jax import summary
from effdet_jax.config import get_config


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
    for what in ("parameters", "multiply_adds", "outputs", "anchors"):
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


def test_a_classifier_has_parameters_alone(d0, capsys):
    d0.model.name = "efficientnet-lite0"
    summary.main(d0, as_json=False, num_classes=1000)
    text = capsys.readouterr().out
    assert "efficientnet-lite0: 224×224, 1000 classes, efficientnet-lite0, 1280 channels" in text
    assert "4,652,008" in text and "anchors" not in text
