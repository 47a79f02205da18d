import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from effdet_jax.report import charts
from effdet_jax.report.run_page import RunPage
from effdet_jax.run.recipes import Difference
from tests.doubles import Images
from tests.reports import make_evaluation, result, write_metrics

TRUTH = (5.0, 10.0, 25.0, 30.0)


@pytest.fixture
def page(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "train_batch.jpg")
    source = Images(4)
    source.report.images, source.report.classes = 4, {"cat": 4}
    return RunPage(
        str(tmp_path / "report.html"),
        "runs/<mine>",
        source,
        {"val": source},
        "finetune",
        [Difference("batch_size", 8, None, "4 images")],
        run=str(tmp_path),
        total_steps=200,
    )


def test_the_page_of_a_run_has_every_part(page, tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "available", lambda: False)
    monkeypatch.setattr("effdet_jax.report.page.available", lambda: False)
    pictures = page.write(100, make_evaluation([result("0.png", TRUTH)]))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "<h1>runs/&lt;mine&gt;</h1>" in text and "step 100 of 200 · epoch 5.0" in text
    assert "<b>0.500</b><span>AP</span>" in text  # The newest evaluation's.
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Training", "Classes", "Confusion", "Sizes", "Images", "Training batch", "Data", "Settings",
    ]  # fmt: skip
    # Without the libraries: no chart, no script of theirs, and what to type.
    assert "vegaEmbed=" not in text and "pip install &#x27;effdet_jax[report]&#x27;" in text
    assert "1 found, 0 missed, 0 false" in text and "image 0" in text
    # Three images twice, the batch, and four of the data doctor.
    assert text.count("data:image/jpeg;base64,") == 11
    assert set(pictures) == {"best", "worst", "random"}
    assert pictures["best"].shape == (315, 840, 3)  # Two of 30×40, enlarged.


def test_charts_are_drawn_by_one_copy_of_the_scripts(page, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    page.write(100, make_evaluation([], ("cat", "dog")))
    text = (tmp_path / "report.html").read_text("utf-8")
    # Loss, AP, precision, F1, confusion, speed, waiting.
    assert text.count('<figure class="card chart">') == 7
    assert text.count("window.vegaEmbed=") == 1 and len(text) < 1_200_000
    assert re.findall(r"<h2>(.*?)</h2>", text)[2:4] == ["Curves", "Confusion"]


def test_a_page_that_fails_is_a_warning(page, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("no json\n")
    page.write(100, make_evaluation([]))
    said = capsys.readouterr().err
    assert f"warning: the report '{tmp_path / 'report.html'}' couldn't be written" in said
    assert "after step 100: JSONDecodeError" in said
    assert not (tmp_path / "report.html").exists()


def test_without_boxes_there_is_no_page(page, tmp_path, capsys):
    nothing = dataclasses.replace(make_evaluation([]), analysis=None)
    assert page.write(7, nothing) == {} and not (tmp_path / "report.html").exists()
    assert capsys.readouterr().err == ""


def test_only_the_first_process_writes(page, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert page.write(100, make_evaluation([])) == {}
    assert not (tmp_path / "report.html").exists()
