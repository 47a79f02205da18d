"""State dicts of PyTorch's `effdet` as variables of this model; the names are facts of effdet 0.4."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.layouts import pytorch_batch_norm, pytorch_conv
from effdet_jax.convert.rules import ConversionError, Rule
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.spec import ModelSpec

# effdet's names of a pyramid and its fusion; it has no others.
FPN_NAMES = {
    ("bifpn", "fast"): "bifpn_fa",
    ("bifpn", "softmax"): "bifpn_attn",
    ("bifpn", "sum"): "bifpn_sum",
    ("panet", "fast"): "pan_fa",
    ("panet", "sum"): "pan_sum",
    ("qufpn", "fast"): "qufpn_fa",
    ("qufpn", "sum"): "qufpn_sum",
}
# Heads of most of effdet's own models count levels before repeats: 'bn_rep.LEVEL.REPEAT.weight'.
_LEVEL_FIRST = re.compile(r"^(class_net|box_net)\.bn_rep\.(\d+)\.(\d+)\.(?!bn\.)")


def effdet_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of an effdet model, less PyTorch's `num_batches_tracked`.

    Raises:
      ConversionError: effdet has no such pyramid.
    """
    yield from backbone_rules("effdet", spec.backbone)
    yield from pyramid_rules(spec)
    for path, source in (("class_head", "class_net"), ("box_head", "box_net")):
        yield from _head(spec, path, source)


def fpn_name(spec: ModelSpec) -> str:
    """effdet's name of the spec's pyramid, 'bifpn_fa'.

    Raises:
      ConversionError: effdet has none like it.
    """
    found = FPN_NAMES.get((spec.pyramid, spec.fusion))
    if not found or (spec.laterals, spec.pooling) != ("node", "overlapping"):
        known = ", ".join(f"{graph} with {fusion}" for graph, fusion in FPN_NAMES)
        raise ConversionError(
            f"PyTorch effdet has no pyramid {spec.pyramid} with {spec.fusion} fusion, laterals per "
            f"{spec.laterals} and {spec.pooling} pooling; it has {known}, with laterals per node and "
            "overlapping pooling"
        )
    return found


def repeats_first(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a state dict by the names that the released models have."""
    return {_LEVEL_FIRST.sub(r"\1.bn_rep.\3.\2.bn.", name): x for name, x in tensors.items()}


def pyramid_rules(spec: ModelSpec) -> Iterator[Rule]:
    """The part of `effdet_rules` below 'pyramid', in effdet below 'fpn'.

    Raises:
      ConversionError: effdet has no such pyramid.
    """
    fpn_name(spec)
    levels = spec.levels
    backbone_levels = [level for level in levels if level <= 5]
    if spec.max_level > 5:
        yield from _resample(spec, "pyramid/P6", f"fpn.resample.{6 - spec.min_level}")
    nodes = PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level)
    ids = [f"P{level}_in" for level in levels] + [node.name for node in nodes]
    for cell in range(spec.pyramid_cells):
        for number, node in enumerate(nodes):
            path = f"pyramid/cell_{cell}/{node.name}"
            source = f"fpn.cell.{cell}.fnode.{number}"
            for name in node.inputs:
                # Only the first cell sees features that aren't of the pyramid's width yet.
                if cell == 0 and name in {f"P{level}_in" for level in backbone_levels}:
                    resample = f"{source}.combine.resample.{ids.index(name)}"
                    yield from _resample(spec, f"{path}/{name}", resample)
            if (node.merge or spec.fusion) != "sum":
                yield Rule(f"params/{path}/fusion/weights", (f"{source}.combine.edge_weights",))
            after = f"{source}.after_combine.conv"
            yield from _conv(spec, f"{path}/conv", after, bias=spec.redundant_bias)
            yield from pytorch_batch_norm(f"{path}/bn", f"{after}.bn")


def _head(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        conv = f"{source}.conv_rep.{repeat}"
        yield from _conv(spec, f"{path}/conv_{repeat}", conv, bias=spec.redundant_bias)
        for number, level in enumerate(spec.levels):
            yield from pytorch_batch_norm(
                f"{path}/bn_{repeat}_P{level}", f"{source}.bn_rep.{repeat}.{number}.bn"
            )
    yield from _conv(spec, f"{path}/predict", f"{source}.predict", bias=True)


def _resample(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    yield from pytorch_conv(f"{path}/conv", f"{source}.conv.conv", bias=spec.redundant_bias)
    yield from pytorch_batch_norm(f"{path}/bn", f"{source}.conv.bn")


def _conv(spec: ModelSpec, path: str, source: str, *, bias: bool) -> Iterator[Rule]:
    if spec.conv == "dense":
        yield from pytorch_conv(path, f"{source}.conv", bias=bias)
        return
    yield from pytorch_conv(f"{path}/depthwise", f"{source}.conv_dw")
    yield from pytorch_conv(f"{path}/pointwise", f"{source}.conv_pw", bias=bias)
