"""ResNet's weights as torchvision and timm name them, who agree, alone and inside a detector."""

from collections.abc import Iterator

from effdet_jax.convert.layouts import pytorch_batch_norm, pytorch_conv
from effdet_jax.convert.rules import BackboneNames, Rule
from effdet_jax.model.resnet import VARIANTS, block_specs


def resnet_rules(backbone: str, prefix: str = "") -> Iterator[Rule]:
    """The names in a ResNet alone; detectors put a prefix before."""
    yield from pytorch_conv("backbone/stem_conv", f"{prefix}conv1")
    yield from pytorch_batch_norm("backbone/stem_bn", f"{prefix}bn1")
    for block in block_specs(backbone):
        path = f"backbone/{block.name}"
        source = f"{prefix}layer{block.stage}.{block.repeat}"
        for number in (1, 2, 3):
            yield from pytorch_conv(f"{path}/conv_{number}", f"{source}.conv{number}")
            yield from pytorch_batch_norm(f"{path}/bn_{number}", f"{source}.bn{number}")
        if block.projects:
            yield from pytorch_conv(f"{path}/shortcut_conv", f"{source}.downsample.0")
            yield from pytorch_batch_norm(f"{path}/shortcut_bn", f"{source}.downsample.1")


def telling_widths(backbone: str) -> dict[str, int]:
    """Channels of the stem; the number of blocks is in the names."""
    return {"params/backbone/stem_conv/kernel": VARIANTS[backbone].width}


NAMES = BackboneNames(
    variants=VARIANTS,
    rules={
        "resnet": resnet_rules,
        "effdet": lambda backbone: resnet_rules(backbone, "backbone."),
        "torchvision": lambda backbone: resnet_rules(backbone, "backbone.body."),
    },
    # ResNets of 18 and 34 layers have no third convolution in a block.
    imagenet={"resnet": "layer1.0.conv3.weight"},
    classifier=r"^fc\.",
    widths=telling_widths,
    symmetric=("resnet",),
)
