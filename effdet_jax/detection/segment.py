"""Semantic segmentation as an objective: a class for every pixel, softmax cross-entropy.

The head and the unweighted sum of losses are google/automl's (`tf2/efficientdet_keras.py`).
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, UInt8

from effdet_jax.classes import IGNORED_PIXEL, MOST_MASK_CLASSES
from effdet_jax.detection.losses import pixel_cross_entropy
from effdet_jax.detection.mask_head import MaskHead
from effdet_jax.ops.anchors import feature_size
from effdet_jax.spec import ModelSpec


@struct.dataclass
class MaskOutputs:
    """Raw predictions of a class per cell.

    Attributes:
      mask_logits: [B, h, w, 1 + K], background first, before the softmax; cells are half as wide as
        those of the finest level.
    """

    mask_logits: Any


@struct.dataclass
class Masks:
    """What the pixels show; `masks[i]` is that of image i.

    Attributes:
      pixels: [..., H, W] uint8: 0 is background, 1 + class index; of a network's own input.
    """

    pixels: Any

    def __getitem__(self, index) -> "Masks":
        return jax.tree.map(lambda array: array[index], self)

    def parts(self) -> dict[str, Any]:
        """See `Detections.parts`."""
        return {"pixels": np.asarray(self.pixels)}

    def to_image(self, scale: Any, size: Any) -> "Masks":
        """The same: images of a batch have different sizes, see `transforms.mask_from_canvas`."""
        del scale, size
        return self


class Segment:
    """See `objective.Objective`.

    Args:
      spec: the model.
      class_weights: K factors of the pixels' losses, by their true class; background has 1.
      label_smoothing: see `losses.pixel_cross_entropy`.
      **loss: keywords of other losses, which have no part in it.

    Raises:
      ValueError: there are more classes than a mask can name.
    """

    measures: ClassVar = "masks"
    needs: ClassVar = ("masks",)
    class_layer: ClassVar = ()  # Its first channel is background.

    def __init__(
        self,
        spec: ModelSpec,
        *,
        class_weights: Any = None,
        label_smoothing: float = 0.0,
        **loss: Any,
    ):
        if spec.num_classes > MOST_MASK_CLASSES:
            raise ValueError(
                f"a mask can name {MOST_MASK_CLASSES} classes, and there are {spec.num_classes}"
            )
        self.spec = spec
        weights = None if class_weights is None else (1.0, *class_weights)
        self._loss = functools.partial(
            pixel_cross_entropy, label_smoothing=label_smoothing, class_weights=weights
        )

    @property
    def stride(self) -> int:
        """Pixels that a cell is wide."""
        return 2 ** (self.spec.min_level - 1)

    def heads(self, *, dtype: DTypeLike, remat: bool) -> dict[str, nn.Module]:
        spec = self.spec
        head = MaskHead(
            1 + spec.num_classes,
            spec.pyramid_width,
            feature_size(spec.image_size, spec.min_level - 1),
            spec.activation,
            dtype,
            remat,
            name="mask_head",
        )
        return {"mask_logits": head}

    def outputs(self, **fields: Any) -> MaskOutputs:
        return MaskOutputs(**fields)

    def targets(self, batch: Mapping[str, Any]) -> UInt8[Array, "B h w"]:
        """The pixel in the middle of every cell; nothing of images that couldn't be read."""
        stride, valid = self.stride, batch["valid"]
        height, width = batch["masks"].shape[1:]
        rows = jnp.minimum(jnp.arange(stride // 2, height + stride // 2, stride), height - 1)
        columns = jnp.minimum(jnp.arange(stride // 2, width + stride // 2, stride), width - 1)
        masks = batch["masks"][:, rows[:, None], columns]
        return jnp.where(valid[:, None, None], masks, jnp.uint8(IGNORED_PIXEL))

    def normalizer(self, targets: Integer[Array, "B h w"]) -> Float[Array, ""]:
        """The number of cells that count, at least 1."""
        return jnp.maximum(jnp.sum(targets != IGNORED_PIXEL), 1).astype(jnp.float32)

    def loss(
        self,
        outputs: MaskOutputs,
        targets: Integer[Array, "B h w"],
        normalizer: Float[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        mean = jnp.sum(self._loss(outputs.mask_logits, targets)) / normalizer
        return mean, {"loss/total": mean, "loss/mask": mean}

    def decode(self, outputs: MaskOutputs, **others: Any) -> Masks:
        """The likeliest class of every pixel: logits bilinear between the middles of their cells.

        Args:
          **others: options of non-maximum suppression; there is nothing to suppress.
        """
        del others
        logits = outputs.mask_logits.astype(jnp.float32)
        batch, height, width, classes = logits.shape
        shape = (batch, height * self.stride, width * self.stride, classes)
        pixels = jnp.argmax(jax.image.resize(logits, shape, "bilinear"), axis=-1)
        height, width = self.spec.image_size
        return Masks(pixels[:, :height, :width].astype(jnp.uint8))

    def candidates(self, outputs: MaskOutputs) -> dict[str, Array]:
        """None: nothing is chosen from."""
        batch = len(outputs.mask_logits)
        return {
            "boxes": jnp.zeros((batch, 0, 4), jnp.float32),
            "scores": jnp.zeros((batch, 0, self.spec.num_classes), jnp.float32),
        }
