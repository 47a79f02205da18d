import json
import pathlib
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.convert.folder import write_folder
from effdet_jax.export.__main__ import main
from effdet_jax.export.formats import FORMATS, Format
from effdet_jax.export.verify import ExportError
from effdet_jax.files import DestinationError
from tests.conftest import ROOT
from tests.tiny import random_variables, tiny_spec

OPTIONS = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 20}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    spec = tiny_spec(num_classes=3)
    path = tmp_path_factory.mktemp("checkpoint")
    class_names = ed.ClassNames(("a", "b", "c"), (1, 2, 7))
    write_folder(path, spec, class_names, random_variables(ed.Detector(spec)), origin="test")
    return str(path)


def export(*paths, nms="hard", overwrite=False, **options):
    paths = [str(path) for path in paths]
    return main(paths, nms=nms, overwrite=overwrite, **{**OPTIONS, **options})


def symbolic(image_size):
    (batch,) = jax.export.symbolic_shape("b")
    image = jax.ShapeDtypeStruct((batch, *image_size, 3), np.uint8)
    return image, jax.ShapeDtypeStruct((batch, 2), np.int32)


def write_toy(path, function, image_size):
    exported = jax.export.export(jax.jit(function))(*symbolic(image_size))
    pathlib.Path(path).write_text(exported.serialize().hex())
    return {"format": "toy"}


def run_toy(path, batches):
    exported = jax.export.deserialize(bytearray.fromhex(pathlib.Path(path).read_text()))
    return [jax.device_get(exported.call(batch["image"], batch["content"])) for batch in batches]


def run_wrongly(path, batches):
    results = run_toy(path, batches)
    results[1]["boxes"] = results[1]["boxes"].copy()
    results[1]["boxes"][2, 5, 3] += 0.25
    return results


def test_the_command_as_it_is_typed(checkpoint, tmp_path):
    out = tmp_path / "new" / "tiny.stablehlo"
    command = [sys.executable, "-m", "effdet_jax.export", checkpoint, str(out), "--nms=gaussian"]
    done = subprocess.run(
        [*command, "--max-detections=20"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "80 of 80 detections equal (100.0%), largest difference 0," in done.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.json"]
    notes = json.loads(pathlib.Path(f"{out}.json").read_text())
    assert notes["class_names"] == {"names": ["a", "b", "c"], "ids": [1, 2, 7]}
    assert notes["image_size"] == [64, 64] and notes["platforms"] == ["cpu", "cuda", "tpu"]
    assert notes["detection"] == {
        "nms": "gaussian",
        "score_threshold": 0.0,
        "iou_threshold": 0.5,
        "max_detections": 20,
    }
    assert notes["versions"]["jax"] == jax.__version__
    # As the README's reader would, on a batch size that the export never ran.
    exported = jax.export.deserialize(bytearray(out.read_bytes()))
    found = exported.call(np.zeros((2, 64, 64, 3), np.uint8), np.full((2, 2), 64, np.int32))
    assert found["boxes"].shape == (2, 20, 4) and found["labels"].dtype == np.int32


def test_a_format_from_outside(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, ".toy", Format(write_toy, run_toy))
    out = tmp_path / "tiny.toy"
    assert export(checkpoint, out, nms="none") == 0
    # 64 px: 64 + 16 + 4 + 1 + 1 cells of 9 anchors, 4 images.
    assert "3096 of 3096 anchors equal" in capsys.readouterr().out
    notes = json.loads((tmp_path / "tiny.toy.json").read_text())
    assert notes["format"] == "toy" and notes["detection"] == {"nms": "none"}


def test_a_file_that_computes_something_else_is_removed(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, ".toy", Format(write_toy, run_wrongly))
    wrong = "3095 of 3096 anchors equal .* largest difference 0.25, .*; it was removed"
    with pytest.raises(ExportError, match=wrong):
        export(checkpoint, tmp_path / "tiny.toy", nms="none")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_and_a_threshold_that_nothing_reaches(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(FORMATS, ".toy", Format(write_toy, run_toy))
    out = tmp_path / "tiny.toy"
    out.write_text("old")
    with pytest.raises(DestinationError, match="tiny.toy' exists"):
        export(checkpoint, out)
    assert export(checkpoint, out, overwrite=True, score_threshold=1.0) == 0
    printed = capsys.readouterr().out
    assert "0 of 0 detections equal" in printed and "warning    nothing was found" in printed
    assert out.read_text() != "old"


def test_mistakes(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="a.onx': there is no format '.onx'"):
        export(checkpoint, tmp_path / "a.onx")
    with pytest.raises(ExportError, match="1 paths given: python -m effdet_jax.export CHECKPOINT"):
        export(checkpoint)
