"""Pictures of a run: the first augmented batch, and detections on the first validation images."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import Source
from effdet_jax.evaluation.loop import NUM_FIRST
from effdet_jax.inference.predictor import SCORE_THRESHOLD
from effdet_jax.inference.render import draw_boxes, draw_mask, grid
from effdet_jax.inference.result import Result
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.workdir import Workdir

LEAST_SIDE = 256  # Pixels of a picture's shorter side, for its names to be legible.
TRAIN_BATCH, VAL_DETECTIONS = "train_batch", "val_detections"  # Without the ending '.jpg'.


class Pictures:
    """Draws into the workdir and its TensorBoard; of several processes the first one does.

    Args:
      workdir: of the run.
      writer: of the run.
      source: validation data; its first `NUM_FIRST` images are read once and kept.
    """

    def __init__(self, workdir: Workdir, writer: MetricWriter, source: Source):
        self._workdir, self._writer, self._source = workdir, writer, source

    @functools.cached_property
    def _images(self) -> list[np.ndarray]:
        return [self._source[index].image for index in range(min(NUM_FIRST, len(self._source)))]

    def write_batch(self, step: int, batch: Mapping[str, np.ndarray]):
        """`train_batch.jpg`: the first images of a training batch, as the network sees them."""
        if jax.process_index():
            return
        pictures = []
        names, masks = self._source.class_names, batch.get("masks", [None] * len(batch["image"]))
        for image, boxes, labels, mask in zip(
            batch["image"], batch["boxes"], batch["labels"], masks
        ):
            real = labels >= 0
            image = image if mask is None else draw_mask(image, mask, names)
            pictures.append(
                draw_boxes(image, boxes[real], labels[real], names, least_side=LEAST_SIDE)
            )
        self._write(step, TRAIN_BATCH, pictures[:NUM_FIRST])

    def write_detections(
        self, step: int, detections: Mapping[int, Any], score_threshold: float | None = None
    ):
        """`val_detections.jpg`: the first validation images with what was found on them.

        Args:
          detections: what the objective decoded, by the image's index in the source, boxes in the
            image's pixels; an image without an entry is drawn as it is.
          score_threshold: less certain ones aren't drawn; `SCORE_THRESHOLD` if None.
        """
        if jax.process_index():
            return
        names = self._source.class_names
        threshold = SCORE_THRESHOLD if score_threshold is None else score_threshold
        pictures = [
            _drawn(image, detections[index], names, threshold)
            if index in detections
            else draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int), least_side=LEAST_SIDE)
            for index, image in enumerate(self._images)
        ]
        self._write(step, VAL_DETECTIONS, pictures)

    def _write(self, step: int, name: str, pictures: Sequence[np.ndarray]):
        picture = grid(pictures)
        self._writer.image(step, name, picture)
        self._workdir.write_picture(name, picture)


def _drawn(image: np.ndarray, found: Any, names: ClassNames, score_threshold: float) -> np.ndarray:
    result = Result.of(found, names, image.shape[:2]).above(score_threshold)
    return dataclasses.replace(result, image=image).draw(least_side=LEAST_SIDE)
