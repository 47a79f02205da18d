"""State dicts of PyTorch's `effdet` and `timm` as variables of this model.

The names are facts of effdet 0.4 and timm 1.0; a kernel's layout is PyTorch's: OIHW.
"""

from collections.abc import Iterator

from effdet_jax.convert.rules import Rule
from effdet_jax.model.efficientnet import block_specs
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
    for ours, theirs in (("class_head", "class_net"), ("box_head", "box_net")):
        yield from _head(spec, ours, theirs)


def backbone_rules(spec: ModelSpec, prefix: str = "") -> Iterator[Rule]:
    """The backbone's part; without a prefix as in timm's ImageNet weights."""
    yield from _conv("backbone/stem_conv", f"{prefix}conv_stem")
    yield from _batch_norm("backbone/stem_bn", f"{prefix}bn1")
    stages = [block.stage for block in block_specs(spec.backbone)]
    for index, block in enumerate(block_specs(spec.backbone)):
        repeat = index - stages.index(block.stage)
        ours, theirs = f"backbone/block_{index}", f"{prefix}blocks.{block.stage}.{repeat}"
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
    yield from _resample(spec, "pyramid/P6", f"fpn.resample.{6 - spec.min_level}")
    nodes = bifpn(spec.min_level, spec.max_level)
    ids = [f"P{level}_in" for level in levels] + [node.name for node in nodes]
    for cell in range(spec.pyramid_cells):
        for number, node in enumerate(nodes):
            ours = f"pyramid/cell_{cell}/{node.name}"
            theirs = f"fpn.cell.{cell}.fnode.{number}"
            for name in node.inputs:
                # Only the first cell sees features that aren't of the pyramid's width yet.
                if cell == 0 and name in {f"P{level}_in" for level in backbone_levels}:
                    resample = f"{theirs}.combine.resample.{ids.index(name)}"
                    yield from _resample(spec, f"{ours}/{name}", resample)
            if spec.fusion != "sum":
                yield Rule(f"params/{ours}/fusion/weights", (f"{theirs}.combine.edge_weights",))
            after = f"{theirs}.after_combine.conv"
            yield from _separable(f"{ours}/conv", after, bias=spec.redundant_bias)
            yield from _batch_norm(f"{ours}/bn", f"{after}.bn")


def _head(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        conv = f"{theirs}.conv_rep.{repeat}"
        yield from _separable(f"{ours}/conv_{repeat}", conv, bias=spec.redundant_bias)
        for number, level in enumerate(spec.levels):
            yield from _batch_norm(
                f"{ours}/bn_{repeat}_P{level}", f"{theirs}.bn_rep.{repeat}.{number}.bn"
            )
    yield from _separable(f"{ours}/predict", f"{theirs}.predict", bias=True)


def _resample(spec: ModelSpec, ours: str, theirs: str) -> Iterator[Rule]:
    yield from _conv(f"{ours}/conv", f"{theirs}.conv.conv", bias=spec.redundant_bias)
    yield from _batch_norm(f"{ours}/bn", f"{theirs}.conv.bn")


def _separable(ours: str, theirs: str, *, bias: bool) -> Iterator[Rule]:
    yield from _conv(f"{ours}/depthwise", f"{theirs}.conv_dw")
    yield from _conv(f"{ours}/pointwise", f"{theirs}.conv_pw", bias=bias)


def _conv(ours: str, theirs: str, *, bias: bool = False) -> Iterator[Rule]:
    # OIHW → HWIO; a depthwise [C, 1, k, k] becomes [k, k, 1, C] by the same transpose.
    yield Rule(f"params/{ours}/kernel", (f"{theirs}.weight",), axes=(2, 3, 1, 0))
    if bias:
        yield Rule(f"params/{ours}/bias", (f"{theirs}.bias",))


def _batch_norm(ours: str, theirs: str) -> Iterator[Rule]:
    for (collection, our_name), their_name in BATCH_NORM.items():
        yield Rule(f"{collection}/{ours}/{our_name}", (f"{theirs}.{their_name}",))
