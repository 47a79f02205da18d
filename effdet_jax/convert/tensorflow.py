"""google/automl's checkpoints, of its TF1 and its TF2 code, as variables of this model.

The names are facts of google/automl's efficientdet and efficientnet code; a kernel's layout is
TensorFlow's: HWIO, depthwise [k, k, C, 1].
"""

from collections.abc import Iterator

from effdet_jax.convert.rules import Rule
from effdet_jax.model.efficientnet import block_specs, uses_squeeze_excite
from effdet_jax.model.graphs import bifpn
from effdet_jax.spec import ModelSpec

BATCH_NORM = {
    ("params", "scale"): "gamma",
    ("params", "bias"): "beta",
    ("batch_stats", "mean"): "moving_mean",
    ("batch_stats", "var"): "moving_variance",
}
_CONV, _BN = "conv2d", "tpu_batch_normalization"


def automl_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of a TF1 (name-based) checkpoint: 'class_net/class-0/bias'."""
    return _rules(spec, tf2=False)


def automl_tf2_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor of a TF2 object checkpoint: 'class_net/conv_ops/0/bias'."""
    return _rules(spec, tf2=True)


def _rules(spec: ModelSpec, *, tf2: bool) -> Iterator[Rule]:
    yield from backbone_rules(spec, tf2=tf2)
    yield from _pyramid(spec, tf2)
    for path, kind in (("class_head", "class"), ("box_head", "box")):
        yield from _head(spec, path, kind, tf2)


def backbone_rules(spec: ModelSpec, *, tf2: bool = False) -> Iterator[Rule]:
    """The backbone's part, also of an ImageNet checkpoint of google/automl's EfficientNet."""
    top = "backbone" if tf2 else spec.backbone
    names = ("_stem/_conv_stem", "_stem/_bn") if tf2 else (f"stem/{_CONV}", f"stem/{_BN}")
    yield from _conv("backbone/stem_conv", f"{top}/{names[0]}")
    yield from _batch_norm("backbone/stem_bn", f"{top}/{names[1]}")
    for index, block in enumerate(block_specs(spec.backbone)):
        path = f"backbone/block_{index}"
        source = f"{top}/_blocks/{index}" if tf2 else f"{top}/blocks_{index}"
        yield from _block(path, source, expands=block.expansion != 1, tf2=tf2)
        if uses_squeeze_excite(spec.backbone):
            for number, name in enumerate(("reduce", "expand")):
                se = f"_se/_se_{name}" if tf2 else f"se/{_CONV}{_suffix(number)}"
                yield from _conv(f"{path}/se/{name}", f"{source}/{se}", bias=True)


def _block(path: str, source: str, *, expands: bool, tf2: bool) -> Iterator[Rule]:
    # TF1 counts layers by kind in the order they were made; TF2's first BN is _bn1 if none expands.
    layers = [("depthwise", "depthwise_conv2d"), ("project", _CONV)]
    if expands:
        layers = [("expand", _CONV), layers[0], ("project", f"{_CONV}_1")]
    for number, (layer, conv) in enumerate(layers):
        conv = f"_{layer}_conv" if tf2 else conv
        bn = f"_bn{number + (not expands)}" if tf2 else f"{_BN}{_suffix(number)}"
        if layer == "depthwise":
            yield _depthwise(f"{path}/depthwise_conv", f"{source}/{conv}")
        else:
            yield from _conv(f"{path}/{layer}_conv", f"{source}/{conv}")
        yield from _batch_norm(f"{path}/{layer}_bn", f"{source}/{bn}")


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _pyramid(spec: ModelSpec, tf2: bool) -> Iterator[Rule]:
    yield from _resample("pyramid/P6", "resample_layers/0" if tf2 else "resample_p6")
    nodes = bifpn(spec.min_level, spec.max_level)
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
            yield from _batch_norm(f"{path}/bn", f"{after}/bn")


def _head(spec: ModelSpec, path: str, kind: str, tf2: bool) -> Iterator[Rule]:
    net, predict = f"{kind}_net", f"{kind}-predict"
    if tf2:
        predict = {"class": "classes", "box": "boxes"}[kind]
    for repeat in range(spec.head_depth):
        conv = f"conv_ops/{repeat}" if tf2 else f"{kind}-{repeat}"
        yield from _separable(f"{path}/conv_{repeat}", f"{net}/{conv}")
        for number, level in enumerate(spec.levels):
            bn = f"bns/{repeat}/{number}" if tf2 else f"{kind}-{repeat}-bn-{level}"
            yield from _batch_norm(f"{path}/bn_{repeat}_P{level}", f"{net}/{bn}")
    yield from _separable(f"{path}/predict", f"{net}/{predict}")


def _resample(path: str, source: str) -> Iterator[Rule]:
    yield from _conv(f"{path}/conv", f"{source}/conv2d", bias=True)
    yield from _batch_norm(f"{path}/bn", f"{source}/bn")


def _separable(path: str, source: str) -> Iterator[Rule]:
    yield _depthwise(f"{path}/depthwise", source)
    yield Rule(f"params/{path}/pointwise/kernel", (f"{source}/pointwise_kernel",))
    yield Rule(f"params/{path}/pointwise/bias", (f"{source}/bias",))


def _depthwise(path: str, source: str) -> Rule:
    # [k, k, C, 1] → [k, k, 1, C].
    return Rule(f"params/{path}/kernel", (f"{source}/depthwise_kernel",), axes=(0, 1, 3, 2))


def _conv(path: str, source: str, *, bias: bool = False) -> Iterator[Rule]:
    yield Rule(f"params/{path}/kernel", (f"{source}/kernel",))
    if bias:
        yield Rule(f"params/{path}/bias", (f"{source}/bias",))


def _batch_norm(path: str, source: str) -> Iterator[Rule]:
    for (collection, our_name), their_name in BATCH_NORM.items():
        yield Rule(f"{collection}/{path}/{our_name}", (f"{source}/{their_name}",))
