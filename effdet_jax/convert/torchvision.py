"""State dicts of torchvision's RetinaNet as variables of this model; the names are its own.

They are those of `retinanet_resnet50_fpn` of torchvision 0.10 and later, without normalisation in
the heads (`retinanet_resnet50_fpn_v2` has group normalisation there).
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from effdet_jax.classes import COCO, ClassNames
from effdet_jax.convert.backbones import backbone_rules
from effdet_jax.convert.layouts import pytorch_conv
from effdet_jax.convert.rules import Rule
from effdet_jax.spec import ModelSpec

# The classes of its COCO weights: COCO's ids, and the background, which is never found.
COCO_WITH_BACKGROUND = ClassNames(("__background__", *COCO.names), (0, *COCO.ids))


def torchvision_rules(spec: ModelSpec) -> Iterator[Rule]:
    """One rule per tensor, less PyTorch's `num_batches_tracked`."""
    yield from backbone_rules("torchvision", spec.backbone)
    backbone_levels = [level for level in spec.levels if level <= 5]
    for number, level in enumerate(backbone_levels):
        inner, layer = (f"backbone.fpn.{kind}_blocks.{number}.0" for kind in ("inner", "layer"))
        yield from pytorch_conv(f"pyramid/P{level}_lateral", inner, bias=True)
        yield from pytorch_conv(f"pyramid/P{level}_conv", layer, bias=True)
    for level in spec.levels[len(backbone_levels) :]:
        source = f"backbone.fpn.extra_blocks.p{level}"
        yield from pytorch_conv(f"pyramid/P{level}_conv", source, bias=True)
    for path, head, predict in (
        ("class_head", "head.classification_head", "cls_logits"),
        ("box_head", "head.regression_head", "bbox_reg"),
    ):
        for repeat in range(spec.head_depth):
            source = f"{head}.conv.{repeat}.0"
            yield from pytorch_conv(f"{path}/conv_{repeat}", source, bias=True)
        yield from pytorch_conv(f"{path}/predict", f"{head}.{predict}", bias=True)


def class_names_of(tensors: Mapping[str, np.ndarray]) -> ClassNames | None:
    """COCO's with the background for 91 classes of 9 anchors; a file of others doesn't name them."""
    bias = tensors.get("head.classification_head.cls_logits.bias", ())
    return COCO_WITH_BACKGROUND if len(bias) == 9 * len(COCO_WITH_BACKGROUND) else None


def present_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of a file by today's names: before torchvision 0.13 activations were counted, too.

    Convolutions of a head were then 'conv.0', 'conv.2', … and now are 'conv.0.0', 'conv.1.0', ….
    """

    def renamed(found: re.Match) -> str:
        return f"{found[1]}.conv.{int(found[2]) // 2}.0.{found[3]}"

    old = r"^(head\.\w+_head)\.conv\.(\d+)\.(weight|bias)$"
    return {re.sub(old, renamed, name): array for name, array in tensors.items()}
