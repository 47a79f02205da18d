"""Pictures of a run: the first augmented batch, and detections on the first validation images."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from effdet_jax.data.example import Source
from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.loop import NUM_FIRST
from effdet_jax.inference.render import draw_boxes, grid, render
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
        for image, boxes, labels in zip(batch["image"], batch["boxes"], batch["labels"]):
            real = labels >= 0
            names = self._source.class_names
            pictures.append(
                draw_boxes(image, boxes[real], labels[real], names, least_side=LEAST_SIDE)
            )
        self._write(step, TRAIN_BATCH, pictures[:NUM_FIRST])

    def write_detections(
        self, step: int, detections: Mapping[int, Detections], score_threshold: float | None = None
    ):
        """`val_detections.jpg`: the first validation images with what was found on them.

        Args:
          detections: by the image's index in the source, boxes in the image's pixels; an image
            without an entry is drawn without boxes.
          score_threshold: less certain ones aren't drawn; `render`'s own if None.
        """
        if jax.process_index():
            return
        names = self._source.class_names
        options = {} if score_threshold is None else {"score_threshold": score_threshold}
        pictures = [
            render(image, detections[index], names, least_side=LEAST_SIDE, **options)
            if index in detections
            else draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int), least_side=LEAST_SIDE)
            for index, image in enumerate(self._images)
        ]
        self._write(step, VAL_DETECTIONS, pictures)

    def _write(self, step: int, name: str, pictures: Sequence[np.ndarray]):
        picture = grid(pictures)
        self._writer.image(step, name, picture)
        self._workdir.write_picture(name, picture)
