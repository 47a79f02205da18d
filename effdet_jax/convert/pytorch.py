"""State dicts of PyTorch's `effdet` and `timm` as variables of this model.

The names are facts of effdet 0.4 and timm 1.0; a kernel's layout is PyTorch's: OIHW.
"""

from collections.abc import Iterator

from effdet_jax.convert.rules import Rule
from effdet_jax.model.efficientnet import block_specs, uses_squeeze_excite
from effdet_jax.model.graphs import bifpn
from effdet_jax.spec import ModelSpec

BATCH_NORM = {
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def effdet_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of an effdet model, less PyTorch's `num_batches_tracked`."""
    yield from backbone_rules(spec, "backbone.")
    yield from _pyramid(spec)
    for path, source in (("class_head", "class_net"), ("box_head", "box_net")):
        yield from _head(spec, path, source)


def backbone_rules(spec: ModelSpec, prefix: str = "") -> Iterator[Rule]:
    """The backbone's part; without a prefix as in timm's ImageNet weights."""
    yield from _conv("backbone/stem_conv", f"{prefix}conv_stem")
    yield from _batch_norm("backbone/stem_bn", f"{prefix}bn1")
    stages = [block.stage for block in block_specs(spec.backbone)]
    for index, block in enumerate(block_specs(spec.backbone)):
        repeat = index - stages.index(block.stage)
        path, source = f"backbone/block_{index}", f"{prefix}blocks.{block.stage}.{repeat}"
        # timm names a block's layers in order: conv_pw/bn1 expands, or, without expansion,
        # conv_dw/bn1 comes first and conv_pw projects.
        names = ["depthwise_conv", "project_conv"], ["conv_dw", "conv_pw"]
        if block.expansion != 1:
            names = (
                ["expand_conv", "depthwise_conv", "project_conv"],
                ["conv_pw", "conv_dw", "conv_pwl"],
            )
        for number, (our_name, their_name) in enumerate(zip(*names), start=1):
            yield from _conv(f"{path}/{our_name}", f"{source}.{their_name}")
            yield from _batch_norm(
                f"{path}/{our_name.replace('conv', 'bn')}", f"{source}.bn{number}"
            )
        if uses_squeeze_excite(spec.backbone):
            for name in ("reduce", "expand"):
                yield from _conv(f"{path}/se/{name}", f"{source}.se.conv_{name}", bias=True)


def _pyramid(spec: ModelSpec) -> Iterator[Rule]:
    levels = spec.levels
    backbone_levels = [level for level in levels if level <= 5]
    yield from _resample(spec, "pyramid/P6", f"fpn.resample.{6 - spec.min_level}")
    nodes = bifpn(spec.min_level, spec.max_level)
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
            if spec.fusion != "sum":
                yield Rule(f"params/{path}/fusion/weights", (f"{source}.combine.edge_weights",))
            after = f"{source}.after_combine.conv"
            yield from _separable(f"{path}/conv", after, bias=spec.redundant_bias)
            yield from _batch_norm(f"{path}/bn", f"{after}.bn")


def _head(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        conv = f"{source}.conv_rep.{repeat}"
        yield from _separable(f"{path}/conv_{repeat}", conv, bias=spec.redundant_bias)
        for number, level in enumerate(spec.levels):
            yield from _batch_norm(
                f"{path}/bn_{repeat}_P{level}", f"{source}.bn_rep.{repeat}.{number}.bn"
            )
    yield from _separable(f"{path}/predict", f"{source}.predict", bias=True)


def _resample(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    yield from _conv(f"{path}/conv", f"{source}.conv.conv", bias=spec.redundant_bias)
    yield from _batch_norm(f"{path}/bn", f"{source}.conv.bn")


def _separable(path: str, source: str, *, bias: bool) -> Iterator[Rule]:
    yield from _conv(f"{path}/depthwise", f"{source}.conv_dw")
    yield from _conv(f"{path}/pointwise", f"{source}.conv_pw", bias=bias)


def _conv(path: str, source: str, *, bias: bool = False) -> Iterator[Rule]:
    # OIHW → HWIO; a depthwise [C, 1, k, k] becomes [k, k, 1, C] by the same transpose.
    yield Rule(f"params/{path}/kernel", (f"{source}.weight",), axes=(2, 3, 1, 0))
    if bias:
        yield Rule(f"params/{path}/bias", (f"{source}.bias",))


def _batch_norm(path: str, source: str) -> Iterator[Rule]:
    for (collection, our_name), their_name in BATCH_NORM.items():
        yield Rule(f"{collection}/{path}/{our_name}", (f"{source}.{their_name}",))
