"""google/automl's checkpoints, of its TF1 and its TF2 code, as variables of this model.

The names are facts of google/automl's efficientdet code.
"""

from collections.abc import Iterator

from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.layouts import (
    tensorflow_batch_norm,
    tensorflow_conv,
    tensorflow_depthwise,
)
from effdet_jax.convert.rules import ConversionError, Rule
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.spec import ModelSpec

# What google/automl's nodes merge by; its fusion weights per channel are a vector per input.
FUSIONS = ("fast", "softmax", "sum", "channel_fast", "channel_softmax")


def automl_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of a TF1 (name-based) checkpoint: 'class_net/class-0/bias'.

    Raises:
      ConversionError: google/automl has no such pyramid; here and below.
    """
    return _rules(spec, tf2=False)


def automl_tf2_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of a TF2 object checkpoint: 'class_net/conv_ops/0/bias'."""
    return _rules(spec, tf2=True)


def _rules(spec: ModelSpec, *, tf2: bool) -> Iterator[Rule]:
    yield from backbone_rules("automl-tf2" if tf2 else "automl", spec.backbone)
    yield from _pyramid(spec, tf2)
    for path, kind in (("class_head", "class"), ("box_head", "box")):
        yield from _head(spec, path, kind, tf2)


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _pyramid(spec: ModelSpec, tf2: bool) -> Iterator[Rule]:
    pyramid = (spec.pyramid, spec.laterals, spec.pooling, spec.conv)
    if pyramid != ("bifpn", "node", "overlapping", "separable") or spec.fusion not in FUSIONS:
        raise ConversionError(
            f"google/automl's checkpoints are of bifpn with {', '.join(FUSIONS)} fusion, laterals "
            f"per node, overlapping pooling and separable convolutions; this one is {spec.pyramid} "
            f"with {spec.fusion}, {spec.laterals}, {spec.pooling} and {spec.conv}"
        )
    if spec.max_level > 5:
        yield from _resample("pyramid/P6", "resample_layers/0" if tf2 else "resample_p6")
    nodes = PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level)
    ids = [f"P{level}_in" for level in spec.levels] + [node.name for node in nodes]
    for cell in range(spec.pyramid_cells):
        for number, node in enumerate(nodes):
            path, known = f"pyramid/cell_{cell}/{node.name}", len(spec.levels) + number
            source = f"fpn_cells/cell_{cell}/fnode{number}"
            if tf2:
                source = f"fpn_cells/cells/{cell}/fnodes/{number}"
            for position, name in enumerate(node.inputs):
                # Only the first cell sees features that aren't of the pyramid's width yet.
                if cell == 0 and name in ("P3_in", "P4_in", "P5_in"):
                    resample = f"resample_{position}_{ids.index(name)}_{known}"
                    if tf2:
                        resample = f"resample_layers/{position}"
                    yield from _resample(f"{path}/{name}", f"{source}/{resample}")
            if spec.fusion != "sum":
                weights = (f"{source}/WSM{_suffix(index)}" for index in range(len(node.inputs)))
                yield Rule(f"params/{path}/fusion/weights", tuple(weights))
            after = f"{source}/op_after_combine" + ("" if tf2 else str(known))
            yield from _separable(f"{path}/conv", f"{after}/{'conv_op' if tf2 else 'conv'}")
            yield from tensorflow_batch_norm(f"{path}/bn", f"{after}/bn")


def _head(spec: ModelSpec, path: str, kind: str, tf2: bool) -> Iterator[Rule]:
    net, predict = f"{kind}_net", f"{kind}-predict"
    if tf2:
        predict = {"class": "classes", "box": "boxes"}[kind]
    for repeat in range(spec.head_depth):
        conv = f"conv_ops/{repeat}" if tf2 else f"{kind}-{repeat}"
        yield from _separable(f"{path}/conv_{repeat}", f"{net}/{conv}")
        for number, level in enumerate(spec.levels):
            bn = f"bns/{repeat}/{number}" if tf2 else f"{kind}-{repeat}-bn-{level}"
            yield from tensorflow_batch_norm(f"{path}/bn_{repeat}_P{level}", f"{net}/{bn}")
    yield from _separable(f"{path}/predict", f"{net}/{predict}")


def _resample(path: str, source: str) -> Iterator[Rule]:
    yield from tensorflow_conv(f"{path}/conv", f"{source}/conv2d", bias=True)
    yield from tensorflow_batch_norm(f"{path}/bn", f"{source}/bn")


def _separable(path: str, source: str) -> Iterator[Rule]:
    yield tensorflow_depthwise(f"{path}/depthwise", source)
    yield Rule(f"params/{path}/pointwise/kernel", (f"{source}/pointwise_kernel",))
    yield Rule(f"params/{path}/pointwise/bias", (f"{source}/bias",))
