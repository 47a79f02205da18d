import dataclasses
import json

import pytest

from effdet_jax.classes import COCO
from effdet_jax.model.counts import summarize
from effdet_jax.model.efficientnet import block_specs, stem_features
from effdet_jax.spec import ModelSpec, equations, list_models, model_spec
from tests.conftest import shared

# Trainable parameters and anchors, google/automl's tests and effdet's counts (both agree).
RELEASED = {
    "efficientdet-d0": (3_880_067, 49_104),
    "efficientdet-d1": (6_625_898, 76_725),
    "efficientdet-d2": (8_097_039, 110_484),
    "efficientdet-d3": (12_032_296, 150_381),
    "efficientdet-d4": (20_723_675, 196_416),
    "efficientdet-d5": (33_653_315, 306_900),
    "efficientdet-d6": (51_871_782, 306_900),
    "efficientdet-d7": (51_871_782, 441_936),
    "efficientdet-d7x": (77_147_166, 442_260),
    "efficientdet-lite0": (3_243_470, 19_206),
    "efficientdet-lite1": (4_248_318, 27_621),
    "efficientdet-lite2": (5_252_334, 37_629),
    "efficientdet-lite3": (8_350_862, 49_104),
    "efficientdet-lite3x": (9_280_862, 76_725),
    "efficientdet-lite4": (15_130_894, 76_725),
}
# Trainable parameters of the backbones alone (google/automl's builder tests and arithmetic).
BACKBONES = {
    "efficientnet-b0": 3_595_388,
    "efficientnet-b1": 6_101_024,
    "efficientnet-b2": 7_202_562,
    "efficientnet-b3": 10_103_336,
    "efficientnet-b4": 16_742_216,
    "efficientnet-b5": 27_288_112,
    "efficientnet-b6": 39_403_992,
    "efficientnet-b7": 62_143_440,
    "efficientnet-lite0": 2_958_848,
    "efficientnet-lite1": 3_723_520,
    "efficientnet-lite2": 4_357_952,
    "efficientnet-lite3": 6_422_016,
    "efficientnet-lite4": 11_149_568,
}
# Multiply-adds of all convolutions at the native size (effdet on PyTorch's meta device).
MULTIPLY_ADDS = {
    "efficientdet-d0": 2_492_331_520,
    "efficientdet-d1": 6_003_416_880,
    "efficientdet-d2": 10_832_466_688,
    "efficientdet-d3": 24_568_753_664,
    "efficientdet-d4": 54_583_712_096,
    "efficientdet-d5": 134_133_865_152,
    "efficientdet-d6": 224_121_477_984,
    "efficientdet-d7": 322_731_636_576,
    "efficientdet-d7x": 407_628_345_344,
    "efficientdet-lite0": 973_589_696,
    "efficientdet-lite1": 1_966_649_904,
    "efficientdet-lite2": 3_371_304_384,
    "efficientdet-lite3": 7_480_187_904,
    "efficientdet-lite3x": 13_978_127_600,
    "efficientdet-lite4": 20_168_084_000,
}

# name: (size, backbone, width, cells, head depth, anchor scale, fusion, coarsest level)
TABLE = {
    "efficientdet-d0": (512, "b0", 64, 3, 3, 4.0, "fast", 7),
    "efficientdet-d1": (640, "b1", 88, 4, 3, 4.0, "fast", 7),
    "efficientdet-d2": (768, "b2", 112, 5, 3, 4.0, "fast", 7),
    "efficientdet-d3": (896, "b3", 160, 6, 4, 4.0, "fast", 7),
    "efficientdet-d4": (1024, "b4", 224, 7, 4, 4.0, "fast", 7),
    "efficientdet-d5": (1280, "b5", 288, 7, 4, 4.0, "fast", 7),
    "efficientdet-d6": (1280, "b6", 384, 8, 5, 4.0, "sum", 7),
    "efficientdet-d7": (1536, "b6", 384, 8, 5, 5.0, "sum", 7),
    "efficientdet-d7x": (1536, "b7", 384, 8, 5, 4.0, "sum", 8),
    "efficientdet-lite0": (320, "lite0", 64, 3, 3, 3.0, "sum", 7),
    "efficientdet-lite1": (384, "lite1", 88, 4, 3, 3.0, "sum", 7),
    "efficientdet-lite2": (448, "lite2", 112, 5, 3, 3.0, "sum", 7),
    "efficientdet-lite3": (512, "lite3", 160, 6, 4, 4.0, "sum", 7),
    "efficientdet-lite3x": (640, "lite3", 200, 6, 4, 3.0, "sum", 7),
    "efficientdet-lite4": (640, "lite4", 224, 7, 4, 4.0, "sum", 7),
}


def test_all_fifteen_are_listed():
    assert list_models() == tuple(RELEASED) == tuple(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_equations_and_exceptions_give_the_released_table(name):
    spec = model_spec(name)
    assert (
        spec.image_size[0],
        spec.backbone.removeprefix("efficientnet-"),
        spec.pyramid_width,
        spec.pyramid_cells,
        spec.head_depth,
        spec.anchor_scale,
        spec.fusion,
        spec.max_level,
    ) == TABLE[name]
    assert spec.image_size[0] == spec.image_size[1]


# The ends of either family and what is exceptional; tracing the others takes half a minute.
AT_ONCE = {"efficientdet-d0", "efficientdet-d7x", "efficientdet-lite0", "efficientdet-lite3x"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in AT_ONCE else pytest.mark.slow) for name in RELEASED],
)
def test_counts_of_every_variant(name):
    spec = model_spec(name)
    summary = summarize(spec)
    parameters, anchors = RELEASED[name]
    assert summary["parameters"]["total"] == parameters
    assert summary["parameters"]["backbone"] == BACKBONES[spec.backbone]
    assert summary["anchors"]["total"] == anchors
    assert summary["multiply_adds"]["total"] == MULTIPLY_ADDS[name]
    # Every level has a class and a box prediction for each anchor.
    for level in spec.levels:
        *_, height, width, per_cell, classes = summary["activations"]["class_head"][f"P{level}"]
        assert height * width * per_cell == summary["anchors"][f"P{level}"]
        assert classes == 90


def test_counts_per_part_equal_the_recorded_ones():
    recorded = json.loads(shared("notes/effdet_counts.json").read_text())
    for name in ("efficientdet-d0", "efficientdet-lite3x"):
        counts, summary = recorded[f"tf_{name.replace('-', '_')}"], summarize(model_spec(name))
        for ours, theirs in (("backbone", "backbone"), ("pyramid", "fpn"), ("box_head", "box_net")):
            assert summary["parameters"][ours] == counts["parts"][theirs]
            assert summary["multiply_adds"][ours] == round(1e9 * counts["parts_GMAdds"][theirs])


def test_a_phi_nobody_released_follows_the_equations():
    spec = model_spec("efficientdet-d2.5")
    # 64·1.35^2.5 = 135.5 → 136; ⌊2.5⌋ = 2 → B2 and 5 cells; 512 + 320 = 832 → 896 = 7·128.
    assert spec.pyramid_width == 136
    assert (spec.backbone, spec.pyramid_cells, spec.head_depth) == ("efficientnet-b2", 5, 3)
    assert spec.image_size == (896, 896)
    lite = model_spec("efficientdet-lite1.5")
    assert (lite.activation, lite.fusion, lite.backbone) == ("relu6", "sum", "efficientnet-lite1")


def test_equations_of_the_paper():
    assert equations(3.0)["pyramid_width"] == 160  # 64·1.35³ = 157.46
    assert equations(6.0)["head_depth"] == 5
    assert equations(0.0, lite=True)["image_size"] == (320, 320)


def test_spec_survives_json():
    spec = model_spec("efficientdet-lite3x", num_classes=3, image_size=(384, 640))
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_unknown_spec_fields_are_named():
    fields = model_spec("efficientdet-d0").to_dict() | {"colour": 1}
    with pytest.raises(ValueError, match="unknown fields colour"):
        ModelSpec.from_dict(fields)


@pytest.mark.parametrize("name", ["efficientdet-d9x", "efficientdet-d3x", "d0", "yolo"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown model .* efficientdet-lite3x"):
        model_spec(name)


def test_a_model_that_fits_nothing_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match=r"'efficientdet-d99' is 99 times scaled up.*up to 10"):
        model_spec("efficientdet-d99")
    assert model_spec("efficientdet-d10").pyramid_cells == 13


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"image_size": (64, 256)}, "64×256 can't be: P6 would be 1×4 and P7 1×2"),
        ({"image_size": (0, 128)}, "below 1 px"),
        ({"pyramid_cells": 0}, "pyramid_cells is 0"),
    ],
)
def test_impossible_specs_say_why(changes, message):
    with pytest.raises(ValueError, match=message):
        model_spec("efficientdet-d0", **changes)


def test_lite_keeps_stem_and_outer_stages_unscaled():
    assert stem_features("efficientnet-lite4") == 32
    assert stem_features("efficientnet-b4") == 48
    stages = [block.stage for block in block_specs("efficientnet-lite4")]
    assert (stages.count(0), stages.count(6), len(stages)) == (1, 1, 30)
    with pytest.raises(ValueError, match="backbone 'b9' is unknown"):
        block_specs("b9")


def test_backbone_blocks_of_b7():
    blocks = block_specs("efficientnet-b7")
    assert len(blocks) == 55
    channels = [blocks[i].out_features for i in (3, 10, 17, 27, 37, 50, 54)]
    assert channels == [32, 48, 80, 160, 224, 384, 640]


def test_coco_has_ninety_columns():
    assert len(COCO) == 90 and dataclasses.is_dataclass(COCO)


def test_a_classifier_has_no_pyramid_and_no_anchors():
    spec = model_spec("efficientnet-lite2", num_classes=10)
    assert (spec.backbone, spec.image_size, spec.num_classes) == (spec.name, (260, 260), 10)
    assert (spec.pyramid_cells, spec.anchors_per_cell, spec.objective) == (0, 0, "classification")
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="pyramid_cells is 0; it must be at least 1"):
        model_spec("efficientdet-d0", pyramid_cells=0)
