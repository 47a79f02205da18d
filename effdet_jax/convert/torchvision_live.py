"""torchvision's RetinaNet, run here with a detector's weights, to compare with."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from effdet_jax.convert.rules import ConversionError
from effdet_jax.convert.write import tensors_for
from effdet_jax.model.resnet import VARIANTS
from effdet_jax.spec import ModelSpec


def torchvision_layers(
    spec: ModelSpec, variables: Mapping[str, Any], images: np.ndarray
) -> dict[str, np.ndarray]:
    """Its layers under the names of `verify.Reference.layers`, in this package's order.

    Args:
      images: [B, H, W, 3] float32, normalised.

    Raises:
      ConversionError: torch and torchvision aren't installed.
    """
    try:
        import torch
        import torchvision  # noqa: F401 (what `_network` is made of)
    except (ImportError, RuntimeError) as error:  # torchvision's, if it isn't of this torch.
        raise ConversionError(
            f"comparing live needs torchvision ({error}): pip install torch torchvision"
        ) from error
    network = _network(spec)
    tensors = tensors_for("torchvision", spec, variables)
    network.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()}, strict=True)
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        backbone = list(network.backbone.body(x).values())
        pyramid = list(network.backbone(x).values())
        outputs = network.head(pyramid)
    layers = {}
    for part, features in (("backbone", backbone), ("pyramid", pyramid)):
        for level, feature in zip(spec.levels, features):
            layers[f"{part} P{level}"] = feature.numpy().transpose(0, 2, 3, 1)
    start = 0
    for level, feature in zip(spec.levels, pyramid):
        height, width = feature.shape[2:]
        stop = start + height * width * spec.anchors_per_cell
        shape = (len(images), height, width, spec.anchors_per_cell, -1)
        for part, name in (("class", "cls_logits"), ("box", "bbox_regression")):
            layers[f"{part} P{level}"] = outputs[name][:, start:stop].numpy().reshape(shape)
        # (dx, dy, dw, dh) there.
        layers[f"box P{level}"] = layers[f"box P{level}"][..., [1, 0, 3, 2]]
        start = stop
    return layers


def _network(spec: ModelSpec) -> Any:
    """torchvision's modules, put together as its `retinanet_resnet50_fpn` does."""
    from torch import nn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    body = ResNet(Bottleneck, list(VARIANTS[spec.backbone].blocks))
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = spec.backbone_epsilon
    width = spec.pyramid_width
    layers = {f"layer{stage}": str(stage - 2) for stage in (2, 3, 4)}
    backbone = BackboneWithFPN(
        body, layers, [512, 1024, 2048], width, extra_blocks=LastLevelP6P7(width, width)
    )
    head = RetinaNetHead(width, spec.anchors_per_cell, spec.num_classes)
    for part in (head.classification_head, head.regression_head):
        part.conv = part.conv[: spec.head_depth]
    return RetinaNet(backbone, spec.num_classes, head=head).eval()
