"""The detector: backbone → pyramid → heads. `BACKBONES` and `NECKS` are in this file.

A classifier is one without a pyramid.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.classes import ClassNames
from effdet_jax.detection.objective import OBJECTIVES, create_objective
from effdet_jax.distributed.rows import split_rows
from effdet_jax.layers.convolution import CONVOLUTIONS, call
from effdet_jax.model import resnet
from effdet_jax.model.efficientnet import VARIANTS, EfficientNet
from effdet_jax.model.fpn import FPN
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.merge import MERGES
from effdet_jax.model.pyramid import LATERALS, POOLINGS, NodeSettings, Pyramid
from effdet_jax.ops.images import normalize
from effdet_jax.ops.normalization import ACTIVATIONS
from effdet_jax.spec import ModelSpec

# What training computes twice to keep less of it: nothing; the inside of every block, fusion node
# and head convolution; those, and all that backbone, pyramid and heads pass on.
REMAT = ("none", "blocks", "full")


def _efficientnet(spec: ModelSpec, *, dtype: DTypeLike, remat: bool, name: str) -> EfficientNet:
    return EfficientNet(
        spec.backbone,
        act=spec.activation,
        survival_probability=spec.survival_probability,
        padding=spec.padding,
        epsilon=spec.backbone_epsilon,
        dtype=dtype,
        remat=remat,
        name=name,
    )


def _resnet(spec: ModelSpec, *, dtype: DTypeLike, remat: bool, name: str) -> resnet.ResNet:
    return resnet.ResNet(
        spec.backbone, spec.padding, spec.backbone_epsilon, dtype, remat, name=name
    )


# Name → (spec, dtype=, remat=, name=) → Flax module. The module's call `(images, train=)` maps
# normalised images [B, H, W, 3] to {level: [B, H / 2**level, W / 2**level, C_level]}, sides rounded
# up, with at least the spec's `min_level`; the pyramid pools levels above the last.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(VARIANTS, _efficientnet),
    **dict.fromkeys(resnet.VARIANTS, _resnet),
}


def _pyramid(spec: ModelSpec, *, dtype: DTypeLike, remat: bool, name: str) -> Pyramid:
    settings = NodeSettings(
        spec.pyramid_width,
        spec.fusion,
        spec.activation,
        spec.conv,
        spec.redundant_bias,
        spec.padding,
        spec.pooling,
        dtype,
    )
    return Pyramid(
        settings,
        spec.pyramid_cells,
        spec.pyramid,
        spec.min_level,
        spec.max_level,
        spec.laterals,
        remat,
        name=name,
    )


def _fpn(spec: ModelSpec, *, dtype: DTypeLike, remat: bool, name: str, **changes: Any) -> FPN:
    del remat  # There is no block to compute twice.
    options = {"padding": spec.padding, "dtype": dtype, "name": name}
    return FPN(spec.pyramid_width, spec.min_level, spec.max_level, **options, **changes)


# Pyramids that are no node lists, by the name that a spec's `pyramid` gives: as `BACKBONES`, but
# that the module's call `(features, train=)` maps {level: feature} to {level: [B, H, W, width]} of
# all the spec's levels.
NECKS: dict[str, Callable[..., nn.Module]] = {
    # Each output normalised, P6 from P5: what EfficientDet's paper compares with (google/automl).
    "retinanet": _fpn,
    "retinanet_plain": functools.partial(_fpn, norm=False),  # torchvision's.
    # P6 from the backbone: RetinaNet's paper and detectron2.
    "retinanet_c5": functools.partial(_fpn, norm=False, extra_from="backbone"),
}


def check_spec(spec: ModelSpec) -> None:
    """Checks what a spec names against what there is.

    Raises:
      ValueError: a name is unknown, and the message lists the known ones; or the pyramid has no
        such levels.
    """
    for field, known in (
        ("backbone", BACKBONES),
        ("pyramid", {**PYRAMIDS, **NECKS}),
        ("fusion", MERGES),
        ("laterals", LATERALS),
        ("pooling", POOLINGS),
        ("conv", CONVOLUTIONS),
        ("activation", ACTIVATIONS),
        ("objective", OBJECTIVES),
    ):
        if getattr(spec, field) not in known:
            names = ", ".join(filter(None, known))
            raise ValueError(f"{field} '{getattr(spec, field)}' is unknown; there are {names}")
    if spec.pyramid in PYRAMIDS:
        PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level)


class Detector(nn.Module):
    """A detector as its spec describes it.

    `model.apply(variables, images)` is inference; training passes `train=True`,
    `mutable=['batch_stats']` and, where the spec has drop-connect, `rngs={'drop_connect': key}`.

    Attributes:
      spec: the architecture.
      class_names: names and ids of the classes, if known; not used by the network.
      dtype: of the computation; parameters, statistics and losses stay float32.
      remat: one of `REMAT`. Parameters and results are the same with each.
      score_threshold: least score with the best F1, as its run evaluated it, if known; not used by
        the network.
    """

    spec: ModelSpec
    class_names: ClassNames | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    score_threshold: float | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], *, train: bool = False) -> Any:
        """Images normalised with the spec's mean and std → the objective's outputs.

        Raises:
          ValueError: the spec or `remat` has an unknown name.
        """
        spec = self.spec
        check_spec(spec)
        if self.remat not in REMAT:
            raise ValueError(f"remat '{self.remat}' is unknown; there are {', '.join(REMAT)}")
        shared = {"dtype": self.dtype, "remat": self.remat != "none"}
        backbone = BACKBONES[spec.backbone](spec, name="backbone", **shared)
        pyramid = NECKS.get(spec.pyramid, _pyramid)(spec, name="pyramid", **shared)
        objective = create_objective(spec)
        heads = objective.heads(**shared)

        def run(module: nn.Module, x: Any) -> Any:
            return call(module, x, train=train, remat=self.remat == "full")

        features = run(backbone, split_rows(images))
        features = run(pyramid, features) if spec.pyramid_cells else features
        return objective.outputs(**{field: run(head, features) for field, head in heads.items()})

    def preprocess(self, batch: Mapping[str, Any]) -> Float[Array, "B H W 3"]:
        """The network's input from a batch's `image` [B, H, W, 3] uint8 and `content` [B, 2]."""
        spec = self.spec
        return normalize(
            batch["image"],
            batch["content"],
            spec.mean,
            spec.std,
            self.dtype,
            black_padding=spec.black_padding,
        )
