"""Checkpoints of zylo117's Yet-Another-EfficientDet-Pytorch as variables of this model.

The names are facts of that program, and so is what the weights mean: boxes are (dy, dx, dh, dw)
against anchors in this package's order, 90 columns are COCO's ids, padding is 'same' and
convolutions before a batch normalisation have a bias, all as google/automl has it. Batch
normalisations of the heads are listed by level, then by repeat.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.layouts import pytorch_batch_norm, pytorch_conv
from effdet_jax.convert.rules import Rule
from effdet_jax.model.graphs import PYRAMIDS, Node
from effdet_jax.spec import ModelSpec

# D6 and up, which this width tells, keep the weights of a fusion that they don't compute.
_SUM_WIDTH = 384


def zylo117_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor, less PyTorch's `num_batches_tracked`."""
    yield from backbone_rules("zylo117", spec.backbone)
    yield from _resample("pyramid/P6", "bifpn.0.p5_to_p6")
    for cell in range(spec.pyramid_cells):
        for node in PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level):
            yield from _node(spec, cell, node)
    for path, source in (("class_head", "classifier"), ("box_head", "regressor")):
        yield from _head(spec, path, source)


def _node(spec: ModelSpec, cell: int, node: Node) -> Iterator[Rule]:
    path, source = f"pyramid/cell_{cell}/{node.name}", f"bifpn.{cell}"
    # On the way down are the nodes before P3's output, and that one.
    down = node.name.endswith("_td") or node.level == spec.min_level
    for name in node.inputs:
        # Only the first cell sees features that aren't of the pyramid's width yet.
        if cell == 0 and name in ("P3_in", "P4_in", "P5_in"):
            lateral = f"{source}.p{node.level}_down_channel" + ("" if down else "_2")
            yield from _resample(f"{path}/{name}", lateral)
    if spec.fusion != "sum":
        weights = f"{source}.p{node.level}_w{1 if down else 2}"
        yield Rule(f"params/{path}/fusion/weights", (weights,))
    conv = f"{source}.conv{node.level}_{'up' if down else 'down'}"
    yield from _separable(f"{path}/conv", conv)
    yield from pytorch_batch_norm(f"{path}/bn", f"{conv}.bn")


def _head(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        yield from _separable(f"{path}/conv_{repeat}", f"{source}.conv_list.{repeat}")
        for number, level in enumerate(spec.levels):
            bn = f"{source}.bn_list.{number}.{repeat}"
            yield from pytorch_batch_norm(f"{path}/bn_{repeat}_P{level}", bn)
    yield from _separable(f"{path}/predict", f"{source}.header")


def _resample(path: str, source: str) -> Iterator[Rule]:
    yield from pytorch_conv(f"{path}/conv", f"{source}.0.conv", bias=True)
    yield from pytorch_batch_norm(f"{path}/bn", f"{source}.1")


def _separable(path: str, source: str) -> Iterator[Rule]:
    yield from pytorch_conv(f"{path}/depthwise", f"{source}.depthwise_conv.conv")
    yield from pytorch_conv(f"{path}/pointwise", f"{source}.pointwise_conv.conv", bias=True)


def unused_names(tensors: Mapping[str, np.ndarray]) -> Callable[[str], Any]:
    """Whether a name is of a tensor that the file holds and its program doesn't compute with."""
    width = len(tensors["classifier.header.depthwise_conv.conv.weight"])
    pattern = r"^bifpn\.\d+\.p\d_w[12]$" if width == _SUM_WIDTH else r"^$"
    return re.compile(pattern).search
