"""Detection on images in memory: resize, run, suppress, map back; compiled once per batch shape."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from effdet_jax.data.transforms import fit, image_scale, letterbox
from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import Detections, to_image
from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.model.detector import Detector


def create_detect(model: Detector, **options: Any) -> Callable[..., Detections]:
    """`(variables, batch) → Detections` in pixels of the original images: all of inference.

    See `create_decode` for the rest.
    """
    decode = create_decode(model, **options)
    return lambda variables, batch: decode(model.apply(variables, model.preprocess(batch)), batch)


def create_decode(model: Detector, **options: Any) -> Callable[..., Detections]:
    """`(outputs, batch) → Detections` in pixels of the original images: what follows the network.

    The batch holds image [B, H, W, 3] uint8, content [B, 2], scale [B] and size [B, 2], as
    `data.pipeline.eval_batches` makes it. Not jitted; pure.

    Args:
      model: the detector.
      **options: keywords of `detect`.
    """
    objective = create_objective(model.spec)

    def decode(outputs, batch):
        found = objective.decode(outputs, **options)
        return to_image(found, batch["scale"], batch["size"])

    return decode


class Predictor:
    """`predictor(images)` → `Detections` in pixels of the images given.

    Args:
      model: the detector.
      variables: its variables; a copy of them is folded, see `fold_batch_norm`.
      batch_size: images run together; the last batch is filled up, so one shape is compiled.
      **options: keywords of `postprocess.detect`, such as `score_threshold=0.3`.
    """

    def __init__(
        self, model: Detector, variables: Mapping[str, Any], *, batch_size: int = 8, **options: Any
    ):
        self.model, self.class_names = model, model.class_names
        folded, self._variables = fold_batch_norm(model, variables)
        self._batch_size = batch_size
        self._detect = jax.jit(create_detect(folded, **options))

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Detections:
        """Detections of uint8 RGB images of any size, as numpy arrays; `[i]` is that of image i.

        Args:
          images: [B, H, W, 3], or a list of [H, W, 3] of different sizes, or one [H, W, 3].

        Raises:
          ValueError: no images, or one that isn't [H, W, 3] uint8.
        """
        images = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else list(images)
        if not images:
            raise ValueError("no images to detect on")
        for number, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"image {number} is {image.dtype} {image.shape}; it must be uint8 [H, W, 3] RGB"
                )
        size = min(self._batch_size, len(images))
        parts = []
        for start in range(0, len(images), size):
            some = images[start : start + size]
            batch = self._batch(some + some[-1:] * (size - len(some)))
            found = jax.device_get(self._detect(self._variables, batch))
            parts.append(found[: len(some)])
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def _batch(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        target = self.model.spec.image_size
        inputs = [letterbox(image, fit(image.shape[:2], target)) for image in images]
        return {
            "image": np.stack([canvas for canvas, _ in inputs]),
            "content": np.array([content for _, content in inputs], np.int32),
            "scale": np.array(
                [image_scale(image.shape[:2], target) for image in images], np.float32
            ),
            "size": np.array([image.shape[:2] for image in images], np.float32),
        }
