"""Classification as an objective: what an image shows, by softmax cross-entropy.

EfficientNet's classifier (arXiv:1905.11946). An image's class is a box around all of it, in ground
truth and in what is predicted, so that data, pictures and result files are a detector's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from effdet_jax.detection.postprocess import Detections
from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.layers.convolution import Conv
from effdet_jax.layers.initializers import dense_uniform
from effdet_jax.ops.boxes import area
from effdet_jax.spec import ModelSpec

TOP = 5  # Classes that are predicted of an image.


@struct.dataclass
class ClassLogits:
    """Raw predictions.

    Attributes:
      logits: [B, K] float32, before the softmax.
    """

    logits: Any


@struct.dataclass
class ClassTargets:
    """What should be predicted.

    Attributes:
      labels: [B] class indices; -1 for an image that has none, or can't be read.
    """

    labels: Any


@struct.dataclass
class Classified(Detections):
    """Detections whose boxes are whole images, the most probable class first."""

    def to_image(self, scale: Float[Array, " B"], size: Float[Array, "B 2"]) -> "Classified":
        del scale
        whole = jnp.concatenate([jnp.zeros_like(size), size], axis=-1)[:, None]
        return self.replace(boxes=jnp.broadcast_to(whole, self.boxes.shape))


class ClassifierHead(nn.Module):
    """`depth` × (1×1 convolution, BN, activation) on the coarsest level, mean, dropout, dense layer.

    Attributes:
      num_classes: K.
      width: channels of the convolutions.
      depth: 1 for EfficientNet; 0 for a ResNet, whose last features are pooled as they are.
      act: name of the activation.
      epsilon: of the batch normalisations.
      dropout: share of the pooled features that training drops.
      dtype: of the computation; pooling and the dense layer are float32.
    """

    num_classes: int
    width: int
    depth: int
    act: str
    epsilon: float
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: dict[int, Float[Array, "B _ _ _"]], *, train: bool = False
    ) -> Float[Array, "B K"]:
        x = features[max(features)]
        for repeat in range(self.depth):
            name = f"conv_{repeat}"
            x = Conv(self.width, dtype=self.dtype, name=name)(x)
            norm = BatchNorm(self.act, epsilon=self.epsilon, after=name, name=f"bn_{repeat}")
            x = norm(x, train=train)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [B, width]
        x = nn.Dropout(self.dropout, rng_collection="drop_connect")(x, deterministic=not train)
        return nn.Dense(self.num_classes, kernel_init=dense_uniform, name="predict")(x)


class Classification:
    """See `objective.Objective`.

    Args:
      spec: the model.
      label_smoothing: share of the target that is spread over all classes.
      class_weights: [K] factors of the classes' losses, None for none.
      **others: knobs of other objectives' losses; they mean nothing here.
    """

    measures: ClassVar = "classes"
    needs: ClassVar = ("boxes",)
    class_layer: ClassVar = ("classifier", "predict")

    def __init__(
        self,
        spec: ModelSpec,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        **others: Any,
    ):
        del others
        self.spec = spec
        self._smoothing, self._weights = label_smoothing, class_weights

    def heads(self, *, dtype: DTypeLike, remat: bool) -> dict[str, nn.Module]:
        del remat  # Nothing is worth computing twice.
        spec = self.spec
        head = ClassifierHead(
            spec.num_classes,
            spec.pyramid_width,
            spec.head_depth,
            spec.activation,
            spec.backbone_epsilon,
            spec.dropout,
            dtype,
            name="classifier",
        )
        return {"logits": head}

    def outputs(self, **fields: Any) -> ClassLogits:
        return ClassLogits(**fields)

    def targets(self, batch: Mapping[str, Any]) -> ClassTargets:
        """Of several boxes in an image the largest counts."""
        labels = batch["labels"]
        sizes = jnp.where(labels >= 0, area(batch["boxes"]), -1.0)  # [B, G]
        largest = jnp.argmax(sizes, axis=1)[:, None]
        chosen = jnp.take_along_axis(labels, largest, axis=1)[:, 0]
        return ClassTargets(jnp.where(batch["valid"], chosen, -1))

    def normalizer(self, targets: ClassTargets) -> Float[Array, ""]:
        """The number of images with a class, at least 1."""
        return jnp.maximum(jnp.sum(targets.labels >= 0).astype(jnp.float32), 1.0)

    def loss(
        self, outputs: ClassLogits, targets: ClassTargets, normalizer: Float[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Cross-entropy; 'train/top1' is the share of images whose class is the most probable."""
        logits, labels = outputs.logits, targets.labels
        wanted = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), self._smoothing)
        each = optax.softmax_cross_entropy(logits, wanted)
        if self._weights is not None:
            each = each * jnp.asarray(self._weights, jnp.float32)[labels]
        total = jnp.sum(jnp.where(labels >= 0, each, 0.0)) / normalizer
        right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        right = jnp.sum(right) / normalizer
        return total, {"loss/total": total, "loss/class": total, "train/top1": right}

    def decode(self, outputs: ClassLogits, *, score_threshold: float = 0.0, **others: Any):
        """The most probable classes, `TOP` at most, as boxes of all the image.

        Args:
          score_threshold: less probable ones are none.
          **others: options of non-maximum suppression; there is nothing to suppress.
        """
        del others
        probabilities = jax.nn.softmax(outputs.logits)
        scores, labels = jax.lax.top_k(probabilities, min(TOP, self.spec.num_classes))
        whole = jnp.array([0, 0, *self.spec.image_size], jnp.float32)
        boxes = jnp.broadcast_to(whole, (*scores.shape, 4))
        return Classified(boxes, scores, labels, scores >= score_threshold)

    def candidates(self, outputs: ClassLogits) -> dict[str, Array]:
        """One candidate, all of the image, with the probabilities of all classes."""
        probabilities = jax.nn.softmax(outputs.logits)[:, None]  # [B, 1, K]
        whole = jnp.array([0, 0, *self.spec.image_size], jnp.float32)
        return {
            "boxes": jnp.broadcast_to(whole, (len(probabilities), 1, 4)),
            "scores": probabilities,
        }
