"""Boxes and masks from one pyramid: EfficientDet's objective beside segmentation, losses added up."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.postprocess import Detections
from effdet_jax.detection.retina import Retina
from effdet_jax.detection.segment import MaskOutputs, Masks, Segment
from effdet_jax.spec import ModelSpec


@struct.dataclass
class JointOutputs:
    """Raw predictions.

    Attributes:
      boxes: of the class and box heads.
      masks: of the segmentation head.
    """

    boxes: Outputs
    masks: MaskOutputs


@struct.dataclass
class DetectionsAndMasks:
    """What was found; `found[i]` is that of image i.

    Attributes:
      detections: boxes, classes and scores.
      masks: a class per pixel.
    """

    detections: Detections
    masks: Masks

    def __getitem__(self, index) -> "DetectionsAndMasks":
        return jax.tree.map(lambda array: array[index], self)

    def parts(self) -> dict[str, Any]:
        """See `Detections.parts`."""
        return {**self.detections.parts(), **self.masks.parts()}

    def to_image(
        self, scale: Float[Array, " B"], size: Float[Array, "B 2"]
    ) -> "DetectionsAndMasks":
        """See `Detections.to_image` and `Masks.to_image`."""
        boxes, masks = self.detections.to_image(scale, size), self.masks.to_image(scale, size)
        return DetectionsAndMasks(boxes, masks)


class RetinaSegment:
    """See `objective.Objective`; targets and normalisers are pairs of (boxes', masks').

    Args:
      spec: the model.
      class_weights, label_smoothing: of both losses.
      **loss: keywords of `losses.detection_loss`.
    """

    measures: ClassVar = "boxes+masks"
    needs: ClassVar = ("boxes", "masks")

    def __init__(self, spec: ModelSpec, **loss: Any):
        self._boxes, self._masks = Retina(spec, **loss), Segment(spec, **loss)

    @property
    def class_layer(self) -> tuple[str, ...]:
        return self._boxes.class_layer

    def heads(self, *, dtype: DTypeLike, remat: bool) -> dict[str, nn.Module]:
        options = {"dtype": dtype, "remat": remat}
        return {**self._boxes.heads(**options), **self._masks.heads(**options)}

    def outputs(self, *, mask_logits: Any, **fields: Any) -> JointOutputs:
        return JointOutputs(self._boxes.outputs(**fields), MaskOutputs(mask_logits))

    def targets(self, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        return self._boxes.targets(batch), self._masks.targets(batch)

    def normalizer(self, targets: tuple[Any, Any]) -> tuple[Any, Any]:
        boxes, masks = targets
        return self._boxes.normalizer(boxes), self._masks.normalizer(masks)

    def loss(
        self, outputs: JointOutputs, targets: tuple[Any, Any], normalizer: tuple[Any, Any]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The unweighted sum, as the reference's."""
        of_boxes, parts = self._boxes.loss(outputs.boxes, targets[0], normalizer[0])
        of_masks, more = self._masks.loss(outputs.masks, targets[1], normalizer[1])
        total = of_boxes + of_masks
        return total, {**parts, **more, "loss/total": total}

    def decode(self, outputs: JointOutputs, **options: Any) -> DetectionsAndMasks:
        """Keywords are those of `postprocess.detect`."""
        found = self._boxes.decode(outputs.boxes, **options)
        return DetectionsAndMasks(found, self._masks.decode(outputs.masks))

    def candidates(self, outputs: JointOutputs) -> Mapping[str, Array]:
        return self._boxes.candidates(outputs.boxes)
