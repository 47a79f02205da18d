import json

import pytest

from effdet_jax.report.compare_page import RunError, write_compare_page
from tests.reports import write_metrics


def make_run(folder, best, **config):
    folder.mkdir()
    write_metrics(folder / "metrics.jsonl", best)
    (folder / "config.json").write_text(json.dumps({"batch_size": 8, "optim": config}))
    return str(folder)


def test_runs_lie_beside_each_other(tmp_path):
    runs = [
        make_run(tmp_path / "a", 0.5, learning_rate=0.01, name="sgd"),
        make_run(tmp_path / "b", 0.7, learning_rate=0.02, name="sgd") + "/",
    ]
    write_compare_page(str(tmp_path / "compare.html"), runs)
    text = (tmp_path / "compare.html").read_text("utf-8")
    first = text[text.index("<tbody>") : text.index("</tbody>")].split("</tr>")
    assert f">{tmp_path / 'a'}<" in first[0] and ">0.500<" in first[0]
    assert f">{tmp_path / 'b'}<" in first[1] and ">0.700<" in first[1]
    assert ">0.3 min<" in first[0] and ">40.0<" in first[0]  # 800 images, 40 a second.
    settings = text[text.index('id="settings"') :]
    assert "optim.learning_rate" in settings and ">0.02<" in settings
    assert "optim.name" not in settings and "batch_size" not in settings


def test_a_folder_without_a_run_is_named(tmp_path):
    run = make_run(tmp_path / "a", 0.5)
    with pytest.raises(RunError, match="nothing' holds no metrics.jsonl"):
        write_compare_page(str(tmp_path / "compare.html"), [run, str(tmp_path / "nothing")])
    assert not (tmp_path / "compare.html").exists()
