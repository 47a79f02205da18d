"""The doctor as a user calls it."""

import json
import subprocess
import sys

import pytest

from effdet_jax import check_data
from effdet_jax.config import ConfigError, get_config
from tests.conftest import ROOT
from tests.data.test_check import REFUSED, folder


def run(capsys, *folders, as_json=False, report="", config=None, write=None):
    status = check_data.main([str(path) for path in folders], config, as_json, report, write)
    return status, capsys.readouterr().out


def test_a_sound_folder(tmp_path, capsys):
    folder(tmp_path)
    folder(tmp_path, "val")
    status, page = run(capsys, tmp_path, report=str(tmp_path / "data.html"))
    assert status == 0 and "train      6 images (0 without boxes), 12 boxes\n" in page
    assert "images 120 … 120 px wide, 80 … 80 px high; 6 RGB\n" in page
    assert "boxes as squares of 27 … 28 px, half of them below 28 px\n" in page  # √750, √806.
    assert "cat       12 ▇" in page and "this data can be trained on; 0 faults" in page
    assert (tmp_path / "data.html").stat().st_size > 10_000


def test_json_has_exactly_what_is_promised(tmp_path, capsys):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "ghost"}]
    folder(tmp_path, categories=categories, each=REFUSED["outside"][0]["each"])
    folder(tmp_path, "val")
    status, text = run(capsys, tmp_path, as_json=True)
    found = json.loads(text)
    assert status == 2 and list(found) == ["splits", "anchors", "decisions"]
    train = found["splits"]["train"]
    assert {key: train[key] for key in train if key != "faults"} == {
        "images": 6,
        "empty": 0,
        "boxes": 6,
        "crowd": 0,
        "classes": {"cat": 6, "ghost": 0},
    }
    stop, outside = train["faults"]
    assert stop["kind"] == "stops training" and stop["count"] == 1
    assert outside["kind"] == "box outside its image" and outside["count"] == 6
    assert outside["first"].startswith("train.json: image 0 'train0.jpg': annotation 1 is")
    assert found["splits"]["val"]["images"] == 6 and found["splits"]["val"]["faults"] == []


def test_a_set_that_cant_be_used_at_all_is_reported_all_the_same(tmp_path, capsys):
    folder(tmp_path, each=REFUSED["normalised"][0]["each"])
    folder(tmp_path, "val")
    status, page = run(capsys, tmp_path)
    assert status == 2 and "stops training: all 12 boxes lie between" in page
    assert "12 × box smaller than a pixel" in page and "training would refuse this data" in page


def test_a_config_names_the_data_too(capsys):
    config = get_config()
    config.data.source, config.data.shapes_val = "shapes", 4
    status, page = run(capsys, config=config)
    assert status == 0 and "val        4 images" in page
    with pytest.raises(ConfigError, match="name one data folder"):
        check_data.main([], get_config(), as_json=False, report="", write=None)


def test_a_set_is_written_in_another_format_with_the_splits_it_has(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    folder(data)
    status, page = run(capsys, data, out, write="yolo")
    assert status == 0 and page.endswith(f"wrote {out} (yolo): 6 images of train, copied\n")
    assert len(list(out.glob("images/train/*.jpg"))) == 6
    folder(data, "val")
    folder(data, "test", images=2)
    status, page = run(capsys, data, tmp_path / "voc", write="voc")
    text = "6 images of train, 6 images of val, 2 images of test, copied"
    assert status == 0 and text in page
    with pytest.raises(ConfigError, match="check_data FOLDER --write=coco OUT"):
        check_data.main([str(data)], None, as_json=False, report="", write="coco")


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "effdet_jax.check_data", str(tmp_path / "none"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == ""
    assert "doesn't exist" in json.loads(done.stdout)["splits"]["train"]["faults"][0]["first"]
