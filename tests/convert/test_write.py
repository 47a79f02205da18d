import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save

from effdet_jax.classes import ClassNames
from effdet_jax.convert import write
from effdet_jax.convert.detectors import detector_variables, guess_spec
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.write import (
    destination_kind,
    tensors_for,
    write_manifest,
    write_tensors,
)
from effdet_jax.model.detector import Detector
from effdet_jax.spec import PYTORCH, model_spec
from tests.tiny import random_variables, tiny_spec

SPEC = model_spec("efficientdet-lite0", num_classes=2)
WEIGHTED = model_spec("efficientdet-d0", num_classes=2)  # Has fusion weights and SE.


@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("w.safetensors", "effdet", SPEC),
        ("w.safetensors", "effdet", WEIGHTED),
        ("w.npz", "automl", WEIGHTED),
        ("w.safetensors", "automl", SPEC),
    ],
)
def test_out_and_in_again_is_bit_equal(tmp_path, name, kind, spec):
    variables = jax.device_get(random_variables(Detector(spec)))
    count = write_tensors(str(tmp_path / name), kind, spec, variables)
    assert count == len(tensors_for(kind, spec, variables))
    weights = read_weights(tmp_path / name)
    assert weights.kind == kind and guess_spec(weights) == spec
    again = detector_variables(weights, spec)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_a_changed_model_and_its_classes_are_known_again(tmp_path):
    spec = tiny_spec(pyramid_cells=2, pyramid_width=24)
    names = ClassNames(("red", "white"), (3, 7))
    variables = jax.device_get(random_variables(Detector(spec)))
    path = str(tmp_path / "w.safetensors")
    write_tensors(path, "effdet", spec, variables, names, 0.25)
    weights = read_weights(path)
    assert guess_spec(weights) == spec and weights.class_names == names
    assert weights.score_threshold == 0.25


def test_effdet_gets_its_counters_and_redundant_biases():
    tensors = tensors_for("effdet", SPEC, random_variables(Detector(SPEC)))
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert len(counters) == sum(name.endswith("running_var") for name in tensors) > 100
    assert all(tensors[name].dtype == np.int64 and tensors[name].shape == () for name in counters)
    assert "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.bias" in tensors


def test_automl_has_no_symmetric_padding():
    spec = model_spec("efficientdet-d0", num_classes=2, **PYTORCH)
    with pytest.raises(ConversionError, match="this one pads 'symmetric'"):
        tensors_for("automl", spec, {})


def test_what_reads_differently_is_refused(tmp_path, monkeypatch):
    variables = jax.device_get(random_variables(Detector(SPEC)))

    def careless(tensors, metadata):
        return save({name: np.asarray(x + x, x.dtype) for name, x in tensors.items()}, metadata)

    monkeypatch.setattr(write, "save", careless)
    with pytest.raises(ConversionError, match=r"reads differently .* in \d+ tensors"):
        write_tensors(str(tmp_path / "w.safetensors"), "effdet", SPEC, variables)


def test_destinations_say_their_kind():
    assert destination_kind("a/b.safetensors") == "effdet" and destination_kind("a/b") == "folder"
    assert destination_kind("b.npz") == "automl"
    assert destination_kind("b.safetensors", "automl") == "automl"
    with pytest.raises(ConversionError, match="effdet tensors are written as .safetensors"):
        destination_kind("b.npz", "effdet")
    with pytest.raises(ConversionError, match="looks like a file, and a folder is to be written"):
        destination_kind("b.onnx")


@pytest.mark.parametrize(("suffix", "kind"), [("pth", ""), ("pt", "effdet"), ("bin", "folder")])
def test_pickles_are_not_written_and_what_to_type_is_said(suffix, kind):
    with pytest.raises(
        ConversionError,
        match=rf"'runs/b.{suffix}': .*Give 'runs/b.safetensors'.*load_file\('runs/b.safetensors'\)",
    ):
        destination_kind(f"runs/b.{suffix}", kind)


def test_the_manifest_lists_every_tensor(tmp_path):
    write_manifest(str(tmp_path / "m.json"), SPEC, {"b": np.zeros((2, 3), np.float32)})
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert manifest["tensors"] == {"b": {"shape": [2, 3], "dtype": "float32"}}
    assert manifest["spec"]["name"] == "efficientdet-lite0"
