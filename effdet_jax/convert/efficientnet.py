"""EfficientNet's weights as timm, google/automl and lukemelas name them, alone and inside a detector."""

from collections.abc import Iterator

from effdet_jax.convert.layouts import (
    pytorch_batch_norm,
    pytorch_conv,
    pytorch_dense,
    tensorflow_batch_norm,
    tensorflow_conv,
    tensorflow_depthwise,
)
from effdet_jax.convert.rules import BackboneNames, Rule
from effdet_jax.model.efficientnet import (
    VARIANTS,
    block_specs,
    stem_features,
    uses_squeeze_excite,
)

_CONV, _BN = "conv2d", "tpu_batch_normalization"


def timm_rules(backbone: str, prefix: str = "") -> Iterator[Rule]:
    """timm's names, which effdet puts 'backbone.' before."""
    yield from pytorch_conv("backbone/stem_conv", f"{prefix}conv_stem")
    yield from pytorch_batch_norm("backbone/stem_bn", f"{prefix}bn1")
    blocks = block_specs(backbone)
    stages = [block.stage for block in blocks]
    for index, block in enumerate(blocks):
        repeat = index - stages.index(block.stage)
        path, source = f"backbone/block_{index}", f"{prefix}blocks.{block.stage}.{repeat}"
        # timm names a block's layers in order: conv_pw/bn1 expands, or, without expansion,
        # conv_dw/bn1 comes first and conv_pw projects.
        layers = [("depthwise", "conv_dw"), ("project", "conv_pw")]
        if block.expansion != 1:
            layers = [("expand", "conv_pw"), layers[0], ("project", "conv_pwl")]
        for number, (layer, conv) in enumerate(layers, start=1):
            yield from pytorch_conv(f"{path}/{layer}_conv", f"{source}.{conv}")
            yield from pytorch_batch_norm(f"{path}/{layer}_bn", f"{source}.bn{number}")
        if uses_squeeze_excite(backbone):
            for name in ("reduce", "expand"):
                yield from pytorch_conv(f"{path}/se/{name}", f"{source}.se.conv_{name}", bias=True)


def lukemelas_rules(backbone: str, prefix: str = "", inner: str = "") -> Iterator[Rule]:
    """The names of lukemelas' `efficientnet_pytorch`; zylo117 has `inner` '.conv' in convolutions."""
    yield from pytorch_conv("backbone/stem_conv", f"{prefix}_conv_stem{inner}")
    yield from pytorch_batch_norm("backbone/stem_bn", f"{prefix}_bn0")
    for index, block in enumerate(block_specs(backbone)):
        path, source = f"backbone/block_{index}", f"{prefix}_blocks.{index}"
        for number, layer in enumerate(("expand", "depthwise", "project")):
            # A block without expansion has no _bn0.
            if layer != "expand" or block.expansion != 1:
                yield from pytorch_conv(f"{path}/{layer}_conv", f"{source}._{layer}_conv{inner}")
                yield from pytorch_batch_norm(f"{path}/{layer}_bn", f"{source}._bn{number}")
        if uses_squeeze_excite(backbone):
            for name in ("reduce", "expand"):
                se = f"{source}._se_{name}{inner}"
                yield from pytorch_conv(f"{path}/se/{name}", se, bias=True)


def automl_rules(backbone: str) -> Iterator[Rule]:
    """google/automl's names in a TF1 checkpoint, alone and inside a detector."""
    yield from tensorflow_conv("backbone/stem_conv", f"{backbone}/stem/{_CONV}")
    yield from tensorflow_batch_norm("backbone/stem_bn", f"{backbone}/stem/{_BN}")
    for index, block in enumerate(block_specs(backbone)):
        path, source = f"backbone/block_{index}", f"{backbone}/blocks_{index}"
        # Layers of a kind are counted in the order they were made.
        layers = [("depthwise", "depthwise_conv2d"), ("project", _CONV)]
        if block.expansion != 1:
            layers = [("expand", _CONV), layers[0], ("project", f"{_CONV}_1")]
        for number, (layer, conv) in enumerate(layers):
            yield from _automl_conv(path, layer, f"{source}/{conv}")
            bn = f"{source}/{_BN}" + (f"_{number}" if number else "")
            yield from tensorflow_batch_norm(f"{path}/{layer}_bn", bn)
        if uses_squeeze_excite(backbone):
            for name, conv in (("reduce", _CONV), ("expand", f"{_CONV}_1")):
                yield from tensorflow_conv(f"{path}/se/{name}", f"{source}/se/{conv}", bias=True)


def automl_tf2_rules(backbone: str) -> Iterator[Rule]:
    """google/automl's names in a detector's TF2 object checkpoint."""
    yield from tensorflow_conv("backbone/stem_conv", "backbone/_stem/_conv_stem")
    yield from tensorflow_batch_norm("backbone/stem_bn", "backbone/_stem/_bn")
    for index, block in enumerate(block_specs(backbone)):
        path, source = f"backbone/block_{index}", f"backbone/_blocks/{index}"
        for number, layer in enumerate(("expand", "depthwise", "project")):
            # A block without expansion has no _bn0.
            if layer != "expand" or block.expansion != 1:
                yield from _automl_conv(path, layer, f"{source}/_{layer}_conv")
                yield from tensorflow_batch_norm(f"{path}/{layer}_bn", f"{source}/_bn{number}")
        if uses_squeeze_excite(backbone):
            for name in ("reduce", "expand"):
                se = f"{source}/_se/_se_{name}"
                yield from tensorflow_conv(f"{path}/se/{name}", se, bias=True)


def pytorch_classifier(conv: str, norm: str, dense: str) -> Iterator[Rule]:
    """The classifier by what a PyTorch program calls its three layers."""
    yield from pytorch_conv("classifier/conv_0", conv)
    yield from pytorch_batch_norm("classifier/bn_0", norm)
    yield from pytorch_dense("classifier/predict", dense)


def automl_classifier(backbone: str) -> Iterator[Rule]:
    """The classifier in a TF1 checkpoint."""
    head = f"{backbone}/head"
    yield from tensorflow_conv("classifier/conv_0", f"{head}/{_CONV}")
    yield from tensorflow_batch_norm("classifier/bn_0", f"{head}/{_BN}")
    yield from tensorflow_conv("classifier/predict", f"{head}/dense", bias=True)


def _automl_conv(path: str, layer: str, source: str) -> Iterator[Rule]:
    if layer == "depthwise":
        yield tensorflow_depthwise(f"{path}/depthwise_conv", source)
    else:
        yield from tensorflow_conv(f"{path}/{layer}_conv", source)


def telling_widths(backbone: str) -> dict[str, int]:
    """Output channels of the first and the last convolution: no two variants share both."""
    blocks = block_specs(backbone)
    return {
        "params/backbone/stem_conv/kernel": stem_features(backbone),
        f"params/backbone/block_{len(blocks) - 1}/project_conv/kernel": blocks[-1].out_features,
    }


NAMES = BackboneNames(
    variants=VARIANTS,
    rules={
        "effdet": lambda backbone: timm_rules(backbone, "backbone."),
        "automl": automl_rules,
        "automl-tf2": automl_tf2_rules,
        "zylo117": lambda backbone: lukemelas_rules(backbone, "backbone_net.model.", ".conv"),
        "timm": timm_rules,
        "efficientnet": automl_rules,
        "lukemelas": lukemelas_rules,
        "lukemelas-zylo117": lambda backbone: lukemelas_rules(backbone, inner=".conv"),
    },
    imagenet={
        "timm": "conv_stem.weight",
        "efficientnet": "stem/conv2d/kernel",
        "lukemelas": "_conv_stem.weight",
        "lukemelas-zylo117": "_conv_stem.conv.weight",
    },
    classifier=r"^(conv_head|bn2|classifier|_conv_head|_bn1|_fc)\.|^efficientnet-\w+/head/",
    widths=telling_widths,
    classifiers={
        "timm": lambda backbone: pytorch_classifier("conv_head", "bn2", "classifier"),
        "efficientnet": automl_classifier,
        "lukemelas": lambda backbone: pytorch_classifier("_conv_head", "_bn1", "_fc"),
    },
)
