"""torchvision's names, and a small RetinaNet of its: `goldens/record_torchvision.py` says which."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from effdet_jax.classes import COCO
from effdet_jax.convert.detectors import detector_variables, guess_spec, rules_for
from effdet_jax.convert.readers import Weights, read_weights
from effdet_jax.convert.rules import ConversionError, abstract_shapes, to_tensors
from effdet_jax.convert.torchvision import (
    COCO_WITH_BACKGROUND,
    class_names_of,
    present_names,
    torchvision_rules,
)
from effdet_jax.convert.verify import run_layers
from effdet_jax.convert.write import write_tensors
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.objective import create_objective
from effdet_jax.model.detector import BACKBONES
from effdet_jax.model.resnet import VARIANTS, Variant
from effdet_jax.spec import model_spec
from tests.conftest import ROOT
from tests.goldens.record_torchvision import draw
from tests.quick import QUICK

NAME = "retinanet-r50-torchvision"
BACKBONE = "resnet-golden"


@pytest.fixture(scope="module", autouse=True)
def golden_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, BACKBONE, Variant((2, 1, 1, 1)))
        patch.setitem(BACKBONES, BACKBONE, BACKBONES["resnet50"])
        yield


@functools.cache
def golden():
    """(spec, weights as in a file, {name: array})."""
    with np.load(ROOT / "tests/goldens/torchvision.npz") as file:
        arrays = dict(file)
    shapes = {
        str(name): tuple(int(side) for side in row if side)
        for name, row in zip(arrays["names"], arrays["shapes"])
    }
    tensors = {name: draw(name, shape) for name, shape in shapes.items()}
    spec = model_spec(
        NAME,
        backbone=BACKBONE,
        image_size=(96, 160),
        num_classes=3,
        pyramid_width=32,
        head_depth=2,
    )
    return spec, Weights("w", "torchvision", tensors, ()), arrays


@functools.cache
def layers():
    spec, weights, arrays = golden()
    return run_layers(spec, detector_variables(weights, spec), arrays["images"])


@pytest.mark.parametrize("part", ["backbone", "pyramid"])
def test_features_are_torchvisions(part):
    _, _, arrays = golden()
    expected = {n: x for n, x in arrays.items() if n.startswith(f"{part}/")}
    assert len(expected) == {"backbone": 3, "pyramid": 5}[part]
    for name, array in expected.items():
        found = layers()[name.replace("/", " ")]
        found = found[..., ::16] if part == "backbone" else found
        np.testing.assert_allclose(found, array, atol=2e-5 * np.abs(array).max())


def outputs_by_level(arrays):
    """The recorded predictions as this package has them: {level: [1, H, W, A, values]}."""
    spec, found, start = golden()[0], {"class_logits": {}, "box_deltas": {}}, 0
    for level, anchors in spec.anchors().items():
        count = anchors[..., 0].size
        for name, levels in found.items():
            x = arrays[name][:, start : start + count]
            x = x if name == "class_logits" else x[..., [1, 0, 3, 2]]
            levels[level] = x.reshape(1, *anchors.shape[:3], -1)
        start += count
    return Outputs(**found)


def test_predictions_are_torchvisions():
    spec, _, arrays = golden()
    expected = outputs_by_level(arrays)
    for level in spec.levels:
        for name, levels in (("class", expected.class_logits), ("box", expected.box_deltas)):
            found, array = layers()[f"{name} P{level}"], levels[level]
            np.testing.assert_allclose(found, array, atol=2e-5 * np.abs(array).max())


def test_anchors_are_torchvisions():
    spec, _, arrays = golden()
    found = np.concatenate([x.reshape(-1, 4) for x in spec.anchors().values()])
    np.testing.assert_array_equal(found[:, [1, 0, 3, 2]], arrays["anchors"])


def test_detections_are_torchvisions():
    """Of the recorded predictions: with others, equals in rank may change places."""
    spec, _, arrays = golden()
    options = {"score_threshold": 0.05, "max_detections": 300}
    limits = jnp.array([spec.image_size], jnp.float32)
    found = jax.jit(
        lambda outputs: create_objective(spec).decode(outputs, clip_to=limits, **options),
        compiler_options=QUICK,
    )(outputs_by_level(arrays))
    assert found.valid.all() and len(arrays["scores"]) == 300
    np.testing.assert_allclose(found.scores[0], arrays["scores"], atol=1e-6)
    np.testing.assert_array_equal(found.labels[0], arrays["labels"])
    boxes = np.asarray(found.boxes[0])[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(boxes, arrays["boxes"], atol=1e-3)


def test_weights_come_back_bit_for_bit():
    spec, weights, _ = golden()
    again = to_tensors(detector_variables(weights, spec), rules_for("torchvision", spec))
    assert again.keys() == weights.tensors.keys()
    for name, array in weights.tensors.items():
        np.testing.assert_array_equal(again[name], array)


def test_the_names_are_the_published_ones():
    spec = model_spec(NAME)
    names = {name for rule in torchvision_rules(spec) for name in rule.names}
    # 53 convolutions and batch normalisations of 4 tensors each; 3 + 3 + 2 and twice 5 convolutions
    # with a bias.
    assert len(names) == 53 * 5 + 2 * 18
    assert {
        "backbone.body.layer4.0.downsample.1.running_var",
        "backbone.fpn.inner_blocks.2.0.weight",
        "backbone.fpn.extra_blocks.p7.bias",
        "head.classification_head.conv.3.0.bias",
        "head.regression_head.bbox_reg.weight",
    } < names
    assert {r.path for r in torchvision_rules(spec)} == set(abstract_shapes(spec))


def test_names_of_older_files_count_activations():
    renamed = {
        "head.classification_head.conv.6.weight": "head.classification_head.conv.3.0.weight",
        "head.regression_head.conv.2.bias": "head.regression_head.conv.1.0.bias",
    }
    same = ("head.regression_head.bbox_reg.bias", "head.classification_head.conv.3.0.weight")
    for old, new in [*renamed.items(), *zip(same, same)]:
        assert list(present_names({old: np.zeros(1)})) == [new]


def test_its_91_classes_are_cocos_ids():
    assert COCO_WITH_BACKGROUND.ids == tuple(range(91))
    assert COCO_WITH_BACKGROUND.names[1:] == COCO.names
    bias = "head.classification_head.cls_logits.bias"
    assert class_names_of({bias: np.zeros(819)}) == COCO_WITH_BACKGROUND
    assert class_names_of({bias: np.zeros(27)}) is None


def test_frozen_normalisations_have_no_epsilon():
    """torchvision sets that of its published detector to 0; what is trained there has 1e-5."""
    spec, weights, _ = golden()
    frozen = Weights("w", "torchvision", weights.tensors, (), frozen_norms=True)
    assert guess_spec(weights, spec.name).backbone_epsilon == 1e-5
    assert guess_spec(frozen, spec.name).backbone_epsilon == 0.0


def test_other_programs_have_no_such_pyramid():
    spec, weights, _ = golden()
    with pytest.raises(
        ConversionError, match="'retinanet_plain'; those of torchvision do: --to=tor"
    ):
        rules_for("effdet", spec)
    with pytest.raises(ConversionError, match="no pyramid 'retinanet'$"):
        rules_for("automl", model_spec("retinanet-r50"))
    with pytest.raises(
        ConversionError, match="no pyramid 'bifpn'; they are of retinanet-r50-torch"
    ):
        guess_spec(weights, "efficientdet-d0")


def test_a_file_of_its_is_a_detector_again(tmp_path):
    """As `convert` writes it: with counters of batches, and the model in its metadata."""
    spec, weights, _ = golden()
    variables = detector_variables(weights, spec)
    count = write_tensors(str(tmp_path / "t.safetensors"), "torchvision", spec, variables)
    norms = sum(name.endswith("running_var") for name in weights.tensors)
    assert count == len(weights.tensors) + norms
    again = read_weights(tmp_path / "t.safetensors")
    assert (again.kind, again.spec, again.frozen_norms) == ("torchvision", spec, False)
    save_file(dict(weights.tensors), tmp_path / "frozen.safetensors")
    assert read_weights(tmp_path / "frozen.safetensors").frozen_norms
