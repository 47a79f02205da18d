"""How other programs name a backbone's weights: one file and one line for each family of backbones."""

from collections.abc import Iterator

from effdet_jax.convert import efficientnet, resnet
from effdet_jax.convert.rules import BackboneNames, ConversionError, Rule

BACKBONES: dict[str, BackboneNames] = {
    "EfficientNet": efficientnet.NAMES,
    "ResNet": resnet.NAMES,
}


def names_of(backbone: str) -> BackboneNames:
    """The names of the family that a backbone is of.

    Raises:
      ConversionError: it is of none: nothing published has its weights.
    """
    for names in BACKBONES.values():
        if backbone in names.variants:
            return names
    raise ConversionError(
        f"backbone '{backbone}' has no names in other programs; there are names of "
        f"{', '.join(BACKBONES)}"
    )


def backbone_rules(kind: str, backbone: str) -> Iterator[Rule]:
    """One rule per tensor of a backbone in weights of a kind.

    Args:
      kind: of a detector's weights ('effdet'), which hold a backbone, or of a backbone's ('timm').
      backbone: as in `ModelSpec.backbone`.

    Raises:
      ConversionError: the backbone isn't found in that kind of weights.
    """
    rules = names_of(backbone).rules
    if kind not in rules:
        raise ConversionError(
            f"backbone '{backbone}' isn't found in weights of {kind}, only of {', '.join(rules)}"
        )
    return iter(rules[kind](backbone))
