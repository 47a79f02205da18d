import itertools

import pytest

from effdet_jax.model.counts import count_products, summarize
from effdet_jax.model.detector import BACKBONES, Detector
from effdet_jax.model.efficientnet import block_specs
from effdet_jax.spec import PYTORCH, model_spec
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
        count_products(Detector(tiny_spec(backbone=name))).multiply_adds["backbone"]
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


# Table 5 of the paper, whose D3 had five cells: (parameters, multiply-adds) of the pyramid, counted
# by a program of its own from node lists, B3's features and a 1×1 convolution per edge.
TABLE_5 = {
    ("fpn", "sum", 10): (1_530_240, 4.779),
    ("panet", "sum", 5): (1_530_240, 4.779),
    ("nasfpn", "sum", 5): (1_139_680, 3.436),
    ("fully_connected", "sum", 10): (1_899_520, 5.630),
    ("bifpn", "sum", 5): (1_339_200, 3.193),
    ("bifpn", "fast", 5): (1_339_295, 3.193),
    ("simple_panet", "sum", 5): (1_255_040, 3.076),  # In a figure of the paper, not in the table.
}
BACKBONE_AND_HEADS = 10_103_336 + 369_486, 14.888 + 5.925  # B3 at 896 px; 4 deep, 160 wide.


@pytest.mark.slow
@pytest.mark.parametrize(("graph", "fusion", "cells"), TABLE_5)
def test_pyramids_of_table_5(graph, fusion, cells):
    changes = {"pyramid": graph, "fusion": fusion, "pyramid_cells": cells}
    counts = summarize(model_spec("efficientdet-d3", **changes))
    parameters, adds = TABLE_5[graph, fusion, cells]
    assert counts["parameters"]["pyramid"] == parameters
    assert round(counts["multiply_adds"]["pyramid"] / 1e9, 3) == adds
    assert counts["parameters"]["total"] == parameters + BACKBONE_AND_HEADS[0]
    total = counts["multiply_adds"]["total"] / 1e9
    assert total == pytest.approx(adds + BACKBONE_AND_HEADS[1], abs=2e-3)


@pytest.mark.slow
def test_parameters_of_efficientdet_q0():
    # PyTorch effdet's own, with 90 classes.
    spec = model_spec("efficientdet-d0", pyramid="qufpn", **PYTORCH)
    assert summarize(spec)["parameters"]["total"] == 4_126_234
