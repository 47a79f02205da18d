"""A model's name → `ModelSpec`: EfficientDets by their compound coefficient φ, others from `families`.

EfficientDet: Tan et al., arXiv:1911.09070, section 4.2. One φ scales everything: width, depth and
input size. The equations are the paper's; the released models differ from them in a few entries,
listed in `EXCEPTIONS` with the reason. A φ nobody released (`efficientdet-d2.5`) follows the
equations alone.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from effdet_jax.classifiers import CLASSIFIERS
from effdet_jax.families import FAMILIES
from effdet_jax.ops.anchors import LAYOUTS, feature_size
from effdet_jax.ops.resample import PADDINGS

# Published D0–D7x were trained and scored with rounded aspects; Lite came after the reference had
# changed to exact square roots (both as (width, height) factors).
ROUNDED_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
EXACT_ASPECTS = ((1.0, 1.0), (2**0.5, 0.5**0.5), (0.5**0.5, 2**0.5))


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """All that defines a network and its input: what a checkpoint stores beside the weights.

    Attributes:
      name: 'efficientdet-d0'.
      backbone: one of `model.detector.BACKBONES`, such as 'efficientnet-b0'.
      image_size: (height, width) in pixels.
      pyramid_width: channels of the pyramid and the heads.
      pyramid_cells: how many times the pyramid's graph is repeated; 0 has no pyramid, and the heads
        see the backbone's own features.
      head_depth: convolutions before each prediction.
      min_level, max_level: finest and coarsest pyramid level; the stride of level l is 2**l.
      fusion: how nodes merge their inputs, one of `model.merge.MERGES`.
      activation: one of `ops.normalization.ACTIVATIONS`.
      num_classes: K; there is no background class.
      octaves, aspects, anchor_scale: see `ops.anchors.anchor_boxes`; 0 octaves are no anchors.
      anchor_layout: where anchors stand in their cells, one of `ops.anchors.LAYOUTS`.
      mean, std: per RGB channel, on the 0–255 scale; a network sees (image - mean) / std.
      black_padding: whether what pads an image is black, too, instead of the mean colour.
      survival_probability: of the backbone's last block; 1 turns drop-connect off.
      padding: of strided windows, one of `ops.resample.PADDINGS`.
      redundant_bias: whether convolutions before a batch normalisation have a bias.
      backbone_epsilon: of the backbone's batch normalisations; 1e-3 everywhere else.
      pyramid: graph of a cell, one of `model.graphs.PYRAMIDS`, or one of `model.detector.NECKS`.
      laterals: where backbone levels get the pyramid's width, one of `model.pyramid.LATERALS`.
      pooling: of the pyramid, one of `model.pyramid.POOLINGS`.
      conv: kind of the pyramid's and the heads' convolutions, one of
        `layers.convolution.CONVOLUTIONS`.
      objective: heads, targets, loss and decoding, one of `detection.objective.OBJECTIVES`.
      dropout: share of a classifier's pooled features that training drops.
      crop: share of the largest centred rectangle of the input's aspect that an image is cut to; 0
        shows all of it, padded.
      intensity: (low, high), values of 16-bit and float images that became 0 and 255 in training, see
        `data.images.decode_image`; () where there were none.
    """

    name: str
    backbone: str
    image_size: tuple[int, int]
    pyramid_width: int
    pyramid_cells: int
    head_depth: int
    min_level: int = 3
    max_level: int = 7
    fusion: str = "fast"
    activation: str = "swish"
    num_classes: int = 90
    octaves: int = 3
    aspects: tuple[tuple[float, float], ...] = ROUNDED_ASPECTS
    anchor_scale: float = 4.0
    anchor_layout: str = "centred"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    black_padding: bool = False
    survival_probability: float = 0.8
    padding: str = "same"
    redundant_bias: bool = True
    backbone_epsilon: float = 1e-3
    pyramid: str = "bifpn"
    laterals: str = "node"
    pooling: str = "overlapping"
    conv: str = "separable"
    objective: str = "retina"
    dropout: float = 0.0
    crop: float = 0.0
    intensity: tuple[float, ...] = ()

    def __post_init__(self):
        for name, known in (("padding", PADDINGS), ("anchor_layout", LAYOUTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} '{getattr(self, name)}' is unknown; there are {', '.join(known)}"
                )
        # Anchors need a pyramid, and heads of their own.
        least = {"pyramid_width": 1, "num_classes": 1, "octaves": 0}
        least |= dict.fromkeys(("pyramid_cells", "head_depth"), int(self.octaves > 0))
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value}")
        if self.octaves and self.max_level <= self.min_level:
            raise ValueError(
                f"max_level is {self.max_level}; it must be above min_level, {self.min_level}"
            )
        if min(self.image_size) < 1:
            raise ValueError(f"image_size {self.image_size} has a side below 1 px")
        sizes = [feature_size(self.image_size, level) for level in self.levels]
        for level, finer, coarser in zip(self.levels[1:], sizes, sizes[1:]):
            # Once a side is down to one row, the other can't go on shrinking alone.
            if (finer[0] > coarser[0]) != (finer[1] > coarser[1]):
                raise ValueError(
                    f"image_size {self.image_size[0]}×{self.image_size[1]} can't be: "
                    f"P{level - 1} would be {finer[0]}×{finer[1]} and P{level} "
                    f"{coarser[0]}×{coarser[1]}; sides of {2**self.max_level} px or more always "
                    "work"
                )

    @property
    def levels(self) -> tuple[int, ...]:
        """Pyramid levels, finest first: (3, 4, 5, 6, 7)."""
        return tuple(range(self.min_level, self.max_level + 1))

    @property
    def anchors_per_cell(self) -> int:
        """A, 9 for every released model."""
        return self.octaves * len(self.aspects)

    def anchors(self) -> dict[int, np.ndarray]:
        """{level: [H, W, A, 4]} anchors at the model's own image size, yxyx pixels."""
        return LAYOUTS[self.anchor_layout](
            self.image_size,
            self.levels,
            octaves=self.octaves,
            aspects=self.aspects,
            scale=self.anchor_scale,
        )

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain JSON types; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelSpec":
        """Inverse of `to_dict`, also after a trip through JSON (lists become tuples again).

        Raises:
          ValueError: a field this version doesn't know.
        """
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"the model spec has unknown fields {', '.join(unknown)}")
        return cls(**{name: _as_tuple(value) for name, value in fields.items()})


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list | tuple) else value


def _nearest_multiple(value: float, of: int) -> int:
    return of * math.floor(value / of + 0.5)


def equations(phi: float, *, lite: bool = False) -> dict[str, Any]:
    """Equations 1–3 of the paper for any φ ≥ 0, as `ModelSpec` fields.

    Width 64·1.35^φ to the nearest multiple of 8, cells 3 + ⌊φ⌋, head depth 3 + ⌊φ/3⌋, image size
    512 + 128φ (Lite: 320 + 64φ) up to the next multiple of 128 (64), backbone B⌊φ⌋ up to B7.
    """
    step = 64 if lite else 128
    size = step * math.ceil(((320 if lite else 512) + step * phi) / step)
    kind, largest = ("lite", 4) if lite else ("b", 7)
    return {
        "backbone": f"efficientnet-{kind}{min(math.floor(phi), largest)}",
        "image_size": (size, size),
        "pyramid_width": _nearest_multiple(64 * 1.35**phi, of=8),
        "pyramid_cells": 3 + math.floor(phi),
        "head_depth": 3 + math.floor(phi / 3),
    }


# What every Lite model changes: nothing that an 8-bit accelerator can't run.
LITE = {
    "activation": "relu6",
    "fusion": "sum",
    "aspects": EXACT_ASPECTS,
    "mean": (127.0, 127.0, 127.0),
    "std": (128.0, 128.0, 128.0),
}

# What PyTorch effdet's own models (`efficientdet_d0` … `d3`, without `tf_`) change: PyTorch's padding
# and no bias where a batch normalisation follows.
PYTORCH = {"padding": "symmetric", "redundant_bias": False, "backbone_epsilon": 1e-5}

# The input of AdvProp checkpoints (arXiv:1911.09665): -1 … 1, padding included.
ADVPROP = {"mean": (127.5,) * 3, "std": (127.5,) * 3, "black_padding": True}

# The released table where it differs from the equations, each with its reason.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    # The reference leaves drop-connect out of B0: D0 trained too slowly with it.
    "efficientdet-d0": {"survival_probability": 1.0},
    # 116.6 and 212.6 were rounded down and up: no one rule gives both 112 and 224.
    "efficientdet-d2": {"pyramid_width": 112},
    "efficientdet-d4": {"pyramid_width": 224},
    # Depth and size of the large models were chosen by memory (paper, table 1).
    "efficientdet-d5": {"pyramid_cells": 7, "image_size": (1280, 1280)},
    # From D6 on fast fusion was unstable to train, a plain sum was not.
    "efficientdet-d6": {"pyramid_cells": 8, "fusion": "sum"},
    # D7 is D6 at a larger size, with larger anchors to go with it.
    "efficientdet-d7": {
        "backbone": "efficientnet-b6",
        "pyramid_cells": 8,
        "pyramid_width": 384,
        "fusion": "sum",
        "image_size": (1536, 1536),
        "anchor_scale": 5.0,
    },
    # D7x: B7 and one more level instead of larger anchors.
    "efficientdet-d7x": {
        "pyramid_cells": 8,
        "pyramid_width": 384,
        "fusion": "sum",
        "image_size": (1536, 1536),
        "max_level": 8,
    },
    # Lite0–2 and 3x see small images: smaller anchors.
    "efficientdet-lite0": {"anchor_scale": 3.0},
    "efficientdet-lite1": {"anchor_scale": 3.0},
    "efficientdet-lite2": {"anchor_scale": 3.0, "pyramid_width": 112},
    # Lite3x is Lite3, wider and at a larger size.
    "efficientdet-lite3x": {
        "anchor_scale": 3.0,
        "pyramid_width": 200,
        "image_size": (640, 640),
    },
    "efficientdet-lite4": {"pyramid_width": 224, "image_size": (640, 640)},
}

MODELS = tuple(
    [f"efficientdet-d{phi}" for phi in range(8)]
    + ["efficientdet-d7x"]
    + [f"efficientdet-lite{phi}" for phi in range(4)]
    + ["efficientdet-lite3x", "efficientdet-lite4"]
)


# Beyond it nothing fits any device: 1287 channels, images of 1792 px.
LARGEST_PHI = 10


def list_models(family: str = "efficientdet") -> tuple[str, ...]:
    """Names of a family's models.

    Args:
      family: 'efficientdet', the fifteen released ones, beside which `model_spec` takes any other φ;
        'retinanet' or 'nasfpn', what EfficientDet's paper compares with: see `families`.

    Raises:
      ValueError: there is no such family.
    """
    families = {"efficientdet": MODELS, **{name: tuple(of) for name, of in FAMILIES.items()}}
    if family not in families:
        raise ValueError(f"family '{family}' is unknown; there are {', '.join(families)}")
    return families[family]


def model_spec(name: str, **changes: Any) -> ModelSpec:
    """The spec of a model by name, with fields replaced by `changes`.

    Args:
      name: one of any family of `list_models`, 'efficientdet-d2.5' / 'efficientdet-lite1.5' for any
        φ, or a classifier of `classifiers.CLASSIFIERS`, 'efficientnet-b0'.
      **changes: `ModelSpec` fields, such as `num_classes=3, image_size=(384, 640)`.

    Raises:
      ValueError: the name is none of these, or a changed field has an impossible value.
    """
    others = {name: fields for models in FAMILIES.values() for name, fields in models.items()}
    for models in (others, CLASSIFIERS):
        if name in models:
            return ModelSpec(**{"name": name, **models[name], **changes})
    found = re.fullmatch(r"efficientdet-(d|lite)(\d+(?:\.\d+)?)(x?)", name)
    if not found or (found[3] and name not in MODELS):
        raise ValueError(
            f"unknown model '{name}'; there are {', '.join(MODELS)}, any other compound "
            f"coefficient as in 'efficientdet-d2.5', {', '.join(others)}, and the classifiers "
            f"{', '.join(CLASSIFIERS)}"
        )
    if float(found[2]) > LARGEST_PHI:
        raise ValueError(
            f"'{name}' is {found[2]} times scaled up: its width alone would be "
            f"{64 * 1.35 ** float(found[2]):.2g} channels; there are {', '.join(MODELS)}, and any "
            f"other compound coefficient up to {LARGEST_PHI}"
        )
    lite = found[1] == "lite"
    fields = {"name": name, **equations(float(found[2]), lite=lite)}
    if lite:
        fields |= LITE
    return ModelSpec(**{**fields, **EXCEPTIONS.get(name, {}), **changes})
