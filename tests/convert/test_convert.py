import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import effdet_jax as ed
from effdet_jax.checkpoint import LAST, Checkpoints, Metadata
from effdet_jax.classes import COCO, ClassNames
from effdet_jax.convert.__main__ import main
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.write import write_tensors
from effdet_jax.files import DestinationError
from effdet_jax.model.detector import Detector
from effdet_jax.spec import model_spec
from tests.conftest import shared
from tests.convert.torch_files import write_pth
from tests.tiny import random_variables

SPEC = model_spec("efficientdet-lite0", num_classes=2)
DEFAULTS = {
    "model": "",
    "image_size": "",
    "advprop": False,
    "raw": False,
    "num_classes": 0,
    "drop_head": False,
    "class_names": [],
    "to": "",
    "verify": False,
    "reference": "",
    "overwrite": False,
}


def convert(*paths, **options):
    return main([str(path) for path in paths], **{**DEFAULTS, **options})


@pytest.fixture
def effdet_file(tmp_path):
    variables = jax.device_get(random_variables(Detector(SPEC)))
    path = tmp_path / "w.safetensors"
    write_tensors(str(path), "effdet", SPEC, variables)
    return path, variables


def test_through_every_form_and_back_is_bit_equal(tmp_path, effdet_file, capsys):
    path, _ = effdet_file
    write_pth(tmp_path / "w.pth", load_file(path))
    steps = ["a.safetensors", "b.npz", "folder", "c.safetensors"]
    for number, (source, target) in enumerate(zip(["w.pth", *steps], steps)):
        options = {"num_classes": 2} if number != 3 else {}
        assert convert(tmp_path / source, tmp_path / target, **options) == 0
    first, last = load_file(path), load_file(tmp_path / "c.safetensors")
    assert first.keys() == last.keys()
    assert all(first[name].tobytes() == last[name].tobytes() for name in first)
    printed = capsys.readouterr().out
    assert "588 tensors, all of them used" in printed and "read back and bit-equal" in printed
    manifest = json.loads((tmp_path / "b.npz.json").read_text())
    assert len(manifest["tensors"]) == 588


def test_the_class_head_must_be_spoken_of(tmp_path, effdet_file):
    path, variables = effdet_file
    with pytest.raises(ConversionError, match="has 2 classes, not 90: say --num_classes=2 to keep"):
        convert(path, tmp_path / "out")
    with pytest.raises(ConversionError, match="has 2 classes, not 5"):
        convert(path, tmp_path / "out", num_classes=5)
    assert not (tmp_path / "out").exists()
    convert(path, tmp_path / "out", class_names=["red", "white"])
    assert ed.load(tmp_path / "out")[0].class_names.names == ("red", "white")
    with pytest.raises(ConversionError, match="names for 2 classes|not 3"):
        convert(path, tmp_path / "out2", class_names=["a", "b", "c"])

    with pytest.raises(ConversionError, match="--drop_head needs the new head's --num_classes"):
        convert(path, tmp_path / "new", drop_head=True)
    convert(path, tmp_path / "new", drop_head=True, num_classes=5)
    model, found = ed.load(tmp_path / "new")
    assert model.spec.num_classes == 5
    np.testing.assert_array_equal(
        found["params"]["box_head"]["predict"]["pointwise"]["kernel"],
        variables["params"]["box_head"]["predict"]["pointwise"]["kernel"],
    )
    assert "to be trained" in (tmp_path / "new" / "README.md").read_text()


def test_a_training_run_brings_its_classes_and_results(tmp_path):
    labels, run = ClassNames(("red", "white"), (3, 7)), tmp_path / "run"
    variables = random_variables(Detector(SPEC))
    metrics = {"eval/AP": 0.25, "eval/score_threshold": 0.41}
    metadata = Metadata(SPEC, labels, {"data": {"dir": "/data/cells/"}}, 12, metrics)
    checkpoints = Checkpoints(run / LAST)
    checkpoints.save(metadata, {"w": np.ones(1)}, variables)
    checkpoints.close()
    assert convert(run, tmp_path / "out") == 0
    model, found = ed.load(tmp_path / "out")
    assert (model.spec, model.class_names) == (SPEC, labels)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    convert(tmp_path / "out", tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", tmp_path / "again")
    for name in ("run", "out", "w.safetensors", "again"):
        assert ed.load(tmp_path / name)[0].score_threshold == 0.41
    convert(tmp_path / "out", tmp_path / "new", drop_head=True, num_classes=2)
    assert ed.load(tmp_path / "new")[0].score_threshold is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "for 12 steps on 'cells'" in card and "| AP | 0.2500 |" in card and "/data" not in card
    with pytest.raises(ConversionError, match="knows its model: --raw says nothing here"):
        convert(run, tmp_path / "out2", raw=True)


def test_the_input_can_be_another(tmp_path, effdet_file):
    path, _ = effdet_file
    convert(path, tmp_path / "out", num_classes=2, image_size="384x640", advprop=True)
    spec = ed.load(tmp_path / "out")[0].spec
    assert spec.image_size == (384, 640) and spec.mean == (127.5,) * 3 and spec.black_padding
    with pytest.raises(ConversionError, match="image_size 64×16 can't be"):
        convert(path, tmp_path / "out2", num_classes=2, image_size="64x16")
    with pytest.raises(ConversionError, match="unknown model 'efficientdet-x'"):
        convert(path, tmp_path / "out2", num_classes=2, model="efficientdet-x")


def test_nothing_is_left_or_overwritten(tmp_path, effdet_file):
    path, _ = effdet_file
    tensors = load_file(path)
    missing = sorted(tensors)[5]
    save_file({n: x for n, x in tensors.items() if n != missing}, tmp_path / "less.safetensors")
    with pytest.raises(ConversionError, match=f"missing in the source: {missing}"):
        convert(tmp_path / "less.safetensors", tmp_path / "out", num_classes=2)
    before = set(tmp_path.iterdir())
    with pytest.raises(DestinationError, match="exists; give another destination"):
        convert(path, path, num_classes=2)
    with pytest.raises(ConversionError, match="1 paths given"):
        convert(path)
    assert set(tmp_path.iterdir()) == before
    convert(path, tmp_path / "out", num_classes=2)
    convert(path, tmp_path / "out", num_classes=2, overwrite=True)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}


def test_the_official_checkpoint_becomes_a_verified_folder(tmp_path, capsys):
    official = shared("goldens/automl_d0_128")
    assert convert(official, tmp_path / "d0", reference=str(official / "ref.npz")) == 0
    printed = capsys.readouterr().out
    assert "moving averages of 709 variables taken" in printed
    assert "detections 200 of 200 equal" in printed and "result     equal" in printed
    assert ed.load(tmp_path / "d0")[0].class_names == COCO
    # The raw variables aren't what the recorded activations belong to.
    assert convert(official, tmp_path / "raw.npz", raw=True) == 0
    capsys.readouterr()
    assert convert(tmp_path / "raw.npz", tmp_path / "r", reference=str(official / "ref.npz")) == 1
    assert "result     DIFFERS: backbone P3" in capsys.readouterr().out
