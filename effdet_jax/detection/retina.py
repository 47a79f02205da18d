"""EfficientDet's objective: anchors, sigmoid focal loss and Huber loss, greedy or soft NMS.

RetinaNet's (arXiv:1708.02002) with EfficientDet's constants.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.detection.heads import CLASS_BIAS, Head, Outputs
from effdet_jax.detection.losses import detection_loss
from effdet_jax.detection.postprocess import Detections, candidates, detect
from effdet_jax.detection.targets import Targets, assign
from effdet_jax.layers.convolution import kernel_path
from effdet_jax.spec import ModelSpec


class Retina:
    """See `objective.Objective`.

    Args:
      spec: the model.
      **loss: keywords of `losses.detection_loss`.

    Attributes:
      head_options: further attributes of both `heads.Head`s.
    """

    measures: ClassVar = "boxes"
    needs: ClassVar = ("boxes",)
    head_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, spec: ModelSpec, **loss: Any):
        self.spec, self._loss = spec, loss

    @property
    def class_layer(self) -> tuple[str, ...]:
        return ("class_head", *kernel_path(self.spec.conv, "predict").split("/"))

    @functools.cached_property
    def anchors(self) -> dict[int, Float[np.ndarray, "_ _ A 4"]]:
        """See `ModelSpec.anchors`; a detector that asks for its heads needs none."""
        return self.spec.anchors()

    def heads(self, *, dtype: DTypeLike, remat: bool) -> dict[str, nn.Module]:
        spec = self.spec
        shared = {
            "anchors": spec.anchors_per_cell,
            "width": spec.pyramid_width,
            "depth": spec.head_depth,
            "act": spec.activation,
            "conv": spec.conv,
            "redundant_bias": spec.redundant_bias,
            "dtype": dtype,
            "remat": remat,
            **self.head_options,
        }
        return {
            "class_logits": Head(spec.num_classes, bias=CLASS_BIAS, name="class_head", **shared),
            "box_deltas": Head(4, name="box_head", **shared),
        }

    def outputs(self, **fields: Any) -> Outputs:
        return Outputs(**fields)

    def targets(self, batch: Mapping[str, Any]) -> Targets:
        return assign(
            self.anchors,
            batch["boxes"],
            batch["labels"],
            batch["valid"],
            batch.get("ignored"),
        )

    def normalizer(self, targets: Targets) -> Float[Array, ""]:
        """The number of matched anchors, plus 1."""
        return jnp.sum(targets.num_positives) + 1.0

    def loss(
        self, outputs: Outputs, targets: Targets, normalizer: Float[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        total, parts = detection_loss(
            outputs, targets, self.anchors, normalizer=normalizer, **self._loss
        )
        return total, {**parts, "data/num_positives": jnp.sum(targets.num_positives)}

    def decode(self, outputs: Outputs, **options: Any) -> Detections:
        return detect(outputs, self.anchors, **options)

    def candidates(self, outputs: Outputs) -> dict[str, Array]:
        return candidates(outputs, self.anchors)
