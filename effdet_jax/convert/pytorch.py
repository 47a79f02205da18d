"""State dicts of PyTorch's `effdet` (`tf_efficientdet_*`) as variables of this model."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from effdet_jax.convert.rules import ConversionError, Rule, abstract_shapes, apply_rules
from effdet_jax.model.efficientnet import block_specs
from effdet_jax.model.graphs import bifpn
from effdet_jax.variants import ModelSpec

BATCH_NORM = {
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def load_effdet(path: str | os.PathLike, spec: ModelSpec) -> dict[str, Any]:
    """Variables of `spec` from an effdet state dict saved as safetensors.

    Raises:
      ConversionError: a tensor is missing, left over or misshapen.
    """
    return from_effdet(load_file(path), spec)


def load_any_effdet(path: str | os.PathLike, spec: ModelSpec) -> dict[str, Any]:
    """Variables from an effdet state dict of the same variant with any number of classes.

    Raises:
      ConversionError: the file is no safetensors file, or of another variant.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"can't read '{path}' as safetensors: {error}") from error
    predictions = tensors.get("class_net.predict.conv_pw.bias")
    if predictions is None:
        raise ConversionError(f"'{path}' is no effdet state dict: it has no class_net.predict")
    classes = len(predictions) // spec.anchors_per_cell
    return from_effdet(tensors, dataclasses.replace(spec, num_classes=classes))


def from_effdet(tensors: Mapping[str, np.ndarray], spec: ModelSpec) -> dict[str, Any]:
    """Variables `{'params', 'batch_stats'}` of `spec` from effdet's tensors by name.

    Raises:
      ConversionError: a tensor is missing, left over or misshapen.
    """
    return apply_rules(
        tensors,
        effdet_rules(spec),
        abstract_shapes(spec),
        unneeded=lambda name: name.endswith("num_batches_tracked"),
    )


def effdet_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of an effdet model with `redundant_bias` (the `tf_` family)."""
    yield from _backbone(spec)
    yield from _pyramid(spec)
    for ours, theirs in (("class_head", "class_net"), ("box_head", "box_net")):
        yield from _head(spec, ours, theirs)


def _backbone(spec: ModelSpec) -> Iterator[Rule]:
    yield from _conv("backbone/stem_conv", "backbone.conv_stem")
    yield from _batch_norm("backbone/stem_bn", "backbone.bn1")
    stages = [block.stage for block in block_specs(spec.backbone)]
    for index, block in enumerate(block_specs(spec.backbone)):
        repeat = index - stages.index(block.stage)
        ours, theirs = f"backbone/block_{index}", f"backbone.blocks.{block.stage}.{repeat}"
        # timm names a block's layers in order: conv_pw/bn1 expands, or, without expansion,
        # conv_dw/bn1 comes first and conv_pw projects.
        names = ["depthwise_conv", "project_conv"], ["conv_dw", "conv_pw"]
        if block.expansion != 1:
            names = (
                ["expand_conv", "depthwise_conv", "project_conv"],
                ["conv_pw", "conv_dw", "conv_pwl"],
            )
        for number, (our_name, their_name) in enumerate(zip(*names), start=1):
            yield from _conv(f"{ours}/{our_name}", f"{theirs}.{their_name}")
            yield from _batch_norm(
                f"{ours}/{our_name.replace('conv', 'bn')}", f"{theirs}.bn{number}"
            )
        if "lite" not in spec.backbone:
            for name in ("reduce", "expand"):
                yield from _conv(f"{ours}/se/{name}", f"{theirs}.se.conv_{name}", bias=True)


def _pyramid(spec: ModelSpec) -> Iterator[Rule]:
    levels = spec.levels
    backbone_levels = [level for level in levels if level <= 5]
    yield from _resample("pyramid/P6", f"fpn.resample.{6 - spec.min_level}")
    nodes = bifpn(spec.min_level, spec.max_level)
    ids = [f"P{level}_in" for level in levels] + [node.name for node in nodes]
    for cell in range(spec.pyramid_cells):
        for number, node in enumerate(nodes):
            ours = f"pyramid/cell_{cell}/{node.name}"
            theirs = f"fpn.cell.{cell}.fnode.{number}"
            for name in node.inputs:
                # Only the first cell sees features that aren't of the pyramid's width yet.
                if cell == 0 and name in {f"P{level}_in" for level in backbone_levels}:
                    yield from _resample(
                        f"{ours}/{name}", f"{theirs}.combine.resample.{ids.index(name)}"
                    )
            if spec.fusion != "sum":
                yield Rule(f"params/{ours}/fusion/weights", f"{theirs}.combine.edge_weights")
            yield from _separable(f"{ours}/conv", f"{theirs}.after_combine.conv")
            yield from _batch_norm(f"{ours}/bn", f"{theirs}.after_combine.conv.bn")


def _head(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        yield from _separable(f"{ours}/conv_{repeat}", f"{theirs}.conv_rep.{repeat}")
        for number, level in enumerate(spec.levels):
            yield from _batch_norm(
                f"{ours}/bn_{repeat}_P{level}", f"{theirs}.bn_rep.{repeat}.{number}.bn"
            )
    yield from _separable(f"{ours}/predict", f"{theirs}.predict")


def _resample(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _conv(f"{ours}/conv", f"{theirs}.conv.conv", bias=True)
    yield from _batch_norm(f"{ours}/bn", f"{theirs}.conv.bn")


def _separable(ours: str, theirs: str) -> Iterator[Rule]:
    yield from _conv(f"{ours}/depthwise", f"{theirs}.conv_dw")
    yield from _conv(f"{ours}/pointwise", f"{theirs}.conv_pw", bias=True)


def _conv(ours: str, theirs: str, *, bias: bool = False) -> Iterator[Rule]:
    # OIHW → HWIO; a depthwise [C, 1, k, k] becomes [k, k, 1, C] by the same transpose.
    yield Rule(
        f"params/{ours}/kernel", f"{theirs}.weight", lambda array: array.transpose(2, 3, 1, 0)
    )
    if bias:
        yield Rule(f"params/{ours}/bias", f"{theirs}.bias")


def _batch_norm(ours: str, theirs: str) -> Iterator[Rule]:
    for (collection, our_name), their_name in BATCH_NORM.items():
        yield Rule(f"{collection}/{ours}/{our_name}", f"{theirs}.{their_name}")
