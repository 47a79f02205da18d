import dataclasses

import pytest

from effdet_jax.report import sections
from effdet_jax.report.history import History
from effdet_jax.run.recipes import Difference
from tests.reports import make_analysis, write_metrics


def test_a_line_for_every_class():
    html = sections.classes(make_analysis(("cat", "<dog>")))
    assert html.count("<tr>") == 3 and "&lt;dog&gt;" in html
    assert ">0.400<" in html and ">0.410<" in html and ">0.50<" in html
    without = dataclasses.replace(make_analysis().classes[0], num_boxes=0, ap=-1.0)
    analysis = dataclasses.replace(make_analysis(), classes=(without,))
    assert sections.classes(analysis).count("–") == 3  # AP, best F1, and its score.
    unused = dataclasses.replace(without, name="unused 12")
    analysis = dataclasses.replace(make_analysis(), classes=(unused, *make_analysis().classes))
    assert "unused 12" not in sections.classes(analysis)


def test_faults_are_named_the_most_frequent_first():
    html = sections.confusion(make_analysis(("cat", "dog")))
    rows = html[html.rindex("<tbody>") :].split("</tr>")[:2]
    assert [">nothing there<" in row and ">cat<" in row for row in rows] == [True, False]
    assert [">not found<" in row and ">cat<" in row for row in rows] == [False, True]
    assert ">3<" in rows[0] and ">2<" in rows[1]


def test_sizes_without_boxes_have_no_numbers():
    html = sections.sizes(make_analysis())
    assert "small (below 32 px)" in html and html.count("–") == 2


def test_curves_of_many_classes_say_how_many_are_left_out():
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    html = sections.curves(make_analysis([f"class {n}" for n in range(103)]))
    assert " 3 classes with fewer boxes are left out." in html
    assert '"name":"class 99"' in html and '"name":"class 100"' not in html
    assert "left out" not in sections.curves(make_analysis(("cat", "dog")))


def test_the_evaluations_are_listed_the_newest_first(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl")
    html = sections.training(History(str(tmp_path / "metrics.jsonl")))
    assert "All 2 evaluations" in html
    assert html.index('data-value="100"') < html.index('data-value="50"')
    assert sections.training(History(str(tmp_path / "none.jsonl"))) == ""


def test_settings_are_shown_beside_the_recipe():
    html = sections.settings("finetune", [Difference("batch_size", 16, None, "205 images")])
    assert "Beside finetune" in html and ">left open<" in html and ">205 images<" in html
    assert "Nothing differs." in sections.settings("finetune", [])


def test_no_pictures_no_section():
    assert sections.images([], 0.5) == ""
