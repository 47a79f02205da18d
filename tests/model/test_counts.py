import itertools

import pytest

from effdet_jax.model.counts import count_products, summarize
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.model.efficientnet import block_specs
from tests.plain_flax import plain_backbone
from tests.tiny import tiny_spec


def test_a_plain_flax_backbone_is_counted(monkeypatch):
    monkeypatch.setitem(BACKBONES, "plain", plain_backbone)
    counts = summarize(tiny_spec(backbone="plain"))
    # 64 px: five 3×3 convolutions to 32², 16², 8², 4², 2² pixels of 8, 16, 24, 32, 40 channels.
    channels = (3, 8, 16, 24, 32, 40)
    pairs = list(itertools.pairwise(channels))
    adds = sum(9 * c * d * (32 >> n) ** 2 for n, (c, d) in enumerate(pairs))
    assert counts["multiply_adds"]["backbone"] == adds
    kernels = sum(9 * c * d for c, d in pairs)
    assert counts["parameters"]["backbone"] == kernels + 3 * sum(channels[1:])  # scale, bias, gamma
    assert counts["activations"]["backbone"]["P5"] == [1, 2, 2, 40]


def test_squeeze_and_excitation_counts_as_products():
    with_se, without = (
        count_products(Detector(tiny_spec(backbone=name)))[0]["backbone"]
        for name in ("efficientnet-b0", "efficientnet-lite0")
    )
    # B0 and Lite0 differ in attention alone: expanded channels × squeezed, there and back.
    squeezed = [(block.in_features, block.expansion) for block in block_specs("efficientnet-b0")]
    assert with_se - without == sum(2 * c * e * max(1, c // 4) for c, e in squeezed)


@pytest.mark.parametrize("part", ["pyramid", "class_head", "box_head"])
def test_every_part_is_counted(part):
    counts = summarize(tiny_spec())
    assert counts["multiply_adds"][part] > 0 and counts["outputs"][part] > 0
    assert counts["parameters"][part] > 0
