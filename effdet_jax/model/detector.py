"""The detector: backbone → pyramid → class head, box head."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.classes import ClassNames
from effdet_jax.detection.heads import CLASS_BIAS, Head, Outputs
from effdet_jax.distributed.rows import split_rows
from effdet_jax.layers.convolution import run
from effdet_jax.model.efficientnet import EfficientNet
from effdet_jax.model.pyramid import Pyramid
from effdet_jax.ops.images import normalize
from effdet_jax.spec import ModelSpec

# Nothing; the inside of every block, fusion node and head convolution; those, and between backbone,
# pyramid and heads too.
REMAT = ("none", "blocks", "full")


class Detector(nn.Module):
    """EfficientDet as its spec describes it.

    `model.apply(variables, images)` is inference; training passes `train=True`,
    `mutable=['batch_stats']` and, where the spec has drop-connect, `rngs={'drop_connect': key}`.

    Attributes:
      spec: the architecture.
      class_names: names and ids of the classes, if known; not used by the network.
      dtype: of the computation; parameters, statistics and outputs' losses stay float32.
      remat: one of `REMAT`; what training computes twice to keep less. Parameters and results are
        the same with each.
    """

    spec: ModelSpec
    class_names: ClassNames | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], *, train: bool = False) -> Outputs:
        """Images normalised with the spec's mean and std → `Outputs`."""
        spec = self.spec
        if self.remat not in REMAT:
            raise ValueError(f"remat '{self.remat}' is unknown; there are {', '.join(REMAT)}")
        shared = {
            "act": spec.activation,
            "dtype": self.dtype,
            "remat": self.remat != "none",
        }
        backbone = EfficientNet(
            spec.backbone,
            survival_probability=spec.survival_probability,
            padding=spec.padding,
            epsilon=spec.backbone_epsilon,
            name="backbone",
            **shared,
        )
        pyramid = Pyramid(
            spec.pyramid_width,
            spec.pyramid_cells,
            spec.min_level,
            spec.max_level,
            spec.fusion,
            redundant_bias=spec.redundant_bias,
            padding=spec.padding,
            name="pyramid",
            **shared,
        )
        head = {
            "anchors": spec.anchors_per_cell,
            "width": spec.pyramid_width,
            "depth": spec.head_depth,
            "redundant_bias": spec.redundant_bias,
            **shared,
        }
        class_head = Head(spec.num_classes, bias=CLASS_BIAS, name="class_head", **head)
        box_head = Head(4, name="box_head", **head)

        call = functools.partial(run, train=train, remat=self.remat == "full")
        features = call(pyramid, call(backbone, split_rows(images)))
        return Outputs(call(class_head, features), call(box_head, features))

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
