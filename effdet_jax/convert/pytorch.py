"""State dicts of PyTorch's `effdet` as variables of this model; the names are facts of effdet 0.4."""

from collections.abc import Iterator

from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.layouts import pytorch_batch_norm, pytorch_conv
from effdet_jax.convert.rules import Rule
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.spec import ModelSpec


def effdet_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of an effdet model, less PyTorch's `num_batches_tracked`."""
    yield from backbone_rules("effdet", spec.backbone)
    yield from _pyramid(spec)
    for path, source in (("class_head", "class_net"), ("box_head", "box_net")):
        yield from _head(spec, path, source)


def _pyramid(spec: ModelSpec) -> Iterator[Rule]:
    levels = spec.levels
    backbone_levels = [level for level in levels if level <= 5]
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
            if spec.fusion != "sum":
                yield Rule(f"params/{path}/fusion/weights", (f"{source}.combine.edge_weights",))
            after = f"{source}.after_combine.conv"
            yield from _separable(f"{path}/conv", after, bias=spec.redundant_bias)
            yield from pytorch_batch_norm(f"{path}/bn", f"{after}.bn")


def _head(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    for repeat in range(spec.head_depth):
        conv = f"{source}.conv_rep.{repeat}"
        yield from _separable(f"{path}/conv_{repeat}", conv, bias=spec.redundant_bias)
        for number, level in enumerate(spec.levels):
            yield from pytorch_batch_norm(
                f"{path}/bn_{repeat}_P{level}", f"{source}.bn_rep.{repeat}.{number}.bn"
            )
    yield from _separable(f"{path}/predict", f"{source}.predict", bias=True)


def _resample(spec: ModelSpec, path: str, source: str) -> Iterator[Rule]:
    yield from pytorch_conv(f"{path}/conv", f"{source}.conv.conv", bias=spec.redundant_bias)
    yield from pytorch_batch_norm(f"{path}/bn", f"{source}.conv.bn")


def _separable(path: str, source: str, *, bias: bool) -> Iterator[Rule]:
    yield from pytorch_conv(f"{path}/depthwise", f"{source}.conv_dw")
    yield from pytorch_conv(f"{path}/pointwise", f"{source}.conv_pw", bias=bias)
