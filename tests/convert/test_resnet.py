import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.detectors import backbone_variables, rules_for
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.resnet import resnet_rules, telling_widths
from effdet_jax.convert.rules import ConversionError, abstract_shapes, flatten
from effdet_jax.inference.load import read_initial_variables
from effdet_jax.model.detector import Detector
from tests.tiny import tiny_spec

SPEC = tiny_spec("retinanet-r50", backbone="resnet-tiny", pyramid_width=8)


@pytest.fixture
def tensors(rng):
    """A ResNet's state dict, as torchvision and timm have it."""
    found = {"fc.weight": np.ones((1000, 256), np.float32), "fc.bias": np.ones(1000, np.float32)}
    shapes = abstract_shapes(SPEC)
    for rule in resnet_rules("resnet-tiny"):
        shape = shapes[rule.path].shape
        (found[rule.names[0]],) = rule.to_source(rng.normal(size=shape).astype(np.float32))
    return found | {"bn1.num_batches_tracked": np.array(5)}


def test_names():
    names = {name: rule.path for rule in resnet_rules("resnet50") for name in rule.names}
    assert len(names) == 53 + 53 * 4  # Convolutions, none with a bias, and normalisations.
    assert names["conv1.weight"] == "params/backbone/stem_conv/kernel"
    block = "backbone/stage_3_block_5"
    assert names["layer3.5.conv2.weight"] == f"params/{block}/conv_2/kernel"
    assert names["layer3.5.bn3.running_mean"] == f"batch_stats/{block}/bn_3/mean"
    first = "params/backbone/stage_4_block_0"
    assert names["layer4.0.downsample.0.weight"] == f"{first}/shortcut_conv/kernel"
    assert names["layer4.0.downsample.1.bias"] == f"{first}/shortcut_bn/bias"
    assert "layer4.1.downsample.0.weight" not in names and "layer4.3.conv1.weight" not in names


def test_a_detector_starts_from_a_file_of_imagenet(tmp_path, tensors, capsys):
    path = str(tmp_path / "resnet50.safetensors")
    save_file(tensors, path)
    variables, classes = read_initial_variables(path, Detector(SPEC))
    said = capsys.readouterr().out
    assert "left out: 2 tensors of the ImageNet classifier (fc." in said
    assert "this model pads 'symmetric', epsilon 1e-05" in said and "shifted" not in said
    assert classes is None
    flat = flatten(variables)
    wanted = {path for path in abstract_shapes(SPEC) if path.split("/")[1] == "backbone"}
    assert flat.keys() == wanted
    np.testing.assert_array_equal(
        flat["params/backbone/stage_2_block_0/conv_2/kernel"],
        tensors["layer2.0.conv2.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        flat["batch_stats/backbone/stem_bn/var"], tensors["bn1.running_var"]
    )


def test_a_model_that_pads_otherwise_is_told(tmp_path, tensors, capsys):
    save_file(tensors, tmp_path / "r.safetensors")
    other = tiny_spec("retinanet-r50", backbone="resnet-tiny", pyramid_width=8, padding="same")
    read_initial_variables(str(tmp_path / "r.safetensors"), Detector(other))
    assert "trained with symmetric padding, epsilon 1e-05" in capsys.readouterr().out


def test_another_backbone_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "r.safetensors")
    weights = read_weights(tmp_path / "r.safetensors")
    assert weights.kind == "resnet"
    with pytest.raises(
        ConversionError, match=r"isn't resnet50: [^|]*missing in the source: layer1.1"
    ):
        backbone_variables(weights, tiny_spec("retinanet-r50", backbone="resnet50"))
    with pytest.raises(ConversionError, match="isn't found in weights of resnet, only of effdet"):
        backbone_variables(weights, tiny_spec())


def test_a_faster_r_cnn_gives_its_backbone(tmp_path, tensors):
    inside = {f"backbone.body.{n}": x for n, x in tensors.items() if not n.startswith("fc.")}
    save_file(inside | {"rpn.head.bias": np.ones(3)}, tmp_path / "r.safetensors")
    weights = read_weights(tmp_path / "r.safetensors")
    assert weights.backbone_only and "conv1.weight" in weights.tensors
    assert any("left out: 1 tensors outside 'backbone.body.'" in note for note in weights.notes)


def test_it_is_found_inside_other_programs_detectors():
    for kind, name in (("torchvision", "backbone.body.conv1"), ("effdet", "backbone.conv1")):
        assert next(backbone_rules(kind, "resnet50")).names == (f"{name}.weight",)
    with pytest.raises(ConversionError, match="'resnet-tiny' isn't found in weights of automl"):
        rules_for("automl", tiny_spec(backbone="resnet-tiny"))


def test_the_stem_tells():
    assert telling_widths("resnet101") == {"params/backbone/stem_conv/kernel": 64}
