import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.convert.backbones import BACKBONES, backbone_rules, names_of
from effdet_jax.convert.layouts import pytorch_conv
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import BackboneNames, ConversionError, to_variables

# A family of one backbone, which is one convolution.
TOY = BackboneNames(
    variants={"toy"},
    rules={
        "toynet": lambda backbone: pytorch_conv("backbone/conv", "trunk"),
        "effdet": lambda backbone: pytorch_conv("backbone/conv", "backbone.trunk"),
    },
    imagenet={"toynet": "trunk.weight"},
    classifier=r"^fc\.",
    widths=lambda backbone: {"params/backbone/conv/kernel": 4},
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(BACKBONES, "Toy", TOY)


def test_a_new_backbone_is_one_entry(tmp_path, toy, rng):
    trunk = rng.normal(size=(4, 3, 2, 1)).astype(np.float32)
    save_file({"trunk.weight": trunk, "fc.bias": np.ones(9)}, tmp_path / "toy.safetensors")
    weights = read_weights(tmp_path / "toy.safetensors")
    assert weights.kind == "toynet" and weights.backbone_only
    assert "left out: 1 tensors of the ImageNet classifier (fc.bias, …)" in weights.notes
    expected = {"params/backbone/conv/kernel": np.zeros((2, 1, 3, 4))}
    found = to_variables(weights.tensors, backbone_rules("toynet", "toy"), expected)
    kernel = found["params"]["backbone"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, trunk.transpose(2, 3, 1, 0))
    (rule,) = backbone_rules("effdet", "toy")
    assert rule.names == ("backbone.trunk.weight",)


def test_refusals_name_every_family(tmp_path, toy):
    save_file({"x": np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ConversionError, match="no EfficientDet or EfficientNet or ResNet or Toy that is"
    ):
        read_weights(tmp_path / "x.safetensors")
    with pytest.raises(
        ConversionError, match="'other' has no names .* of EfficientNet, ResNet, Toy"
    ):
        names_of("other")


def test_a_kind_of_weights_without_the_backbone_is_said(toy):
    with pytest.raises(
        ConversionError, match="'toy' isn't found in weights of automl, only of toynet, effdet"
    ):
        backbone_rules("automl", "toy")


def test_efficientnets_are_a_family():
    assert names_of("efficientnet-lite3") is names_of("efficientnet-b7")
    first = next(backbone_rules("timm", "efficientnet-b0"))
    assert (first.path, first.names) == ("params/backbone/stem_conv/kernel", ("conv_stem.weight",))
