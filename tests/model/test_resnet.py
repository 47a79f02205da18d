import jax
import jax.numpy as jnp
import pytest

from effdet_jax.model.counts import summarize
from effdet_jax.model.resnet import VARIANTS, ResNet, block_specs
from effdet_jax.spec import model_spec
from tests.tiny import tiny_spec


def parameters(backbone):
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    features, variables = jax.eval_shape(
        lambda x: ResNet(backbone).init_with_output(jax.random.key(0), x), images
    )
    return features, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("backbone", "whole"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)]
)
def test_parameters_are_torchvisions(backbone, whole):
    """torchvision lists them with its classifier of 1000 classes and as many biases."""
    features, count = parameters(backbone)
    assert count + 2048 * 1000 + 1000 == whole
    assert {level: x.shape for level, x in features.items()} == {
        3: (1, 8, 12, 512),
        4: (1, 4, 6, 1024),
        5: (1, 2, 3, 2048),
    }


def test_the_stride_is_in_the_3x3_convolution():
    """Version 1.5: the 1×1 before it sees every pixel, so that it has four times the products."""
    found = summarize(tiny_spec(backbone="resnet-tiny"))["multiply_adds"]["backbone"]
    # 64 px: 7×7 to 32², pooled to 16²; a block per stage of 8, 16, 32, 64 channels within.
    expected, side, inputs = 49 * 3 * 8 * 32**2, 16, 8
    for stage, width in enumerate((8, 16, 32, 64)):
        after = side if stage == 0 else side // 2
        expected += inputs * width * side**2  # conv_1, before the stride
        expected += (9 * width * width + 4 * width * width + 4 * inputs * width) * after**2
        side, inputs = after, 4 * width
    assert found == expected


def test_blocks():
    blocks = list(block_specs("resnet101"))
    assert len(blocks) == 3 + 4 + 23 + 3 and sum(VARIANTS["resnet50"].blocks) == 16
    assert [block.name for block in blocks if block.stride == 2] == [
        "stage_2_block_0",
        "stage_3_block_0",
        "stage_4_block_0",
    ]
    assert [block.width for block in blocks if block.projects] == [64, 128, 256, 512]


def test_its_weights_pad_and_normalise_as_in_pytorch():
    spec = model_spec("retinanet-r50")
    assert (spec.padding, spec.backbone_epsilon) == ("symmetric", 1e-5)
    # torchvision's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225), of 255.
    assert spec.mean == pytest.approx((123.675, 116.28, 103.53))
    assert spec.std == pytest.approx((58.395, 57.12, 57.375))
