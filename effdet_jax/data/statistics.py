"""What a training set holds, counted at once: boxes, classes, and what a run takes from them."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.data import transforms
from effdet_jax.data.example import GroundTruth, Source

# Examples looked at where ground truth comes only with decoded or rendered images.
SAMPLED = 256
# Slots where the boxes of all images aren't known beforehand: as many as the reference has.
USUAL_SLOTS = 100
SLOTS_MULTIPLE = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """The boxes of a set without its crowds, as flat arrays: n images, N boxes.

    Attributes:
      class_names: what the labels mean.
      sizes: [n, 2] (height, width) of the images, pixels.
      image: [N] which image a box is of.
      boxes: [N, 4] yxyx, pixels of the image.
      labels: [N] class indices.
      complete: whether these are all images; False for a sample of them.
    """

    class_names: ClassNames
    sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    complete: bool

    @property
    def boxes_per_image(self) -> np.ndarray:
        """[n] int."""
        return np.bincount(self.image, minlength=len(self.sizes))

    @functools.cached_property
    def boxes_per_class(self) -> np.ndarray:
        """[K] int."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def slots(self) -> int:
        """The most boxes that an image has, rounded up; the reference's number for a sample."""
        if not self.complete:
            return USUAL_SLOTS
        most = max(int(self.boxes_per_image.max(initial=0)), 1)
        return -(-most // SLOTS_MULTIPLE) * SLOTS_MULTIPLE

    def on_canvas(self, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(boxes [M, 4] float32 yxyx in network pixels, labels [M]), fitted as evaluation does.

        Boxes without area there are left out.
        """
        sizes, kind = np.unique(self.sizes, axis=0, return_inverse=True)
        scaled = np.array(
            [transforms.fit((height, width), image_size).scaled for height, width in sizes.tolist()]
        )
        factor = (scaled / sizes).astype(np.float32)[kind.reshape(-1)][self.image]  # [N, 2]
        boxes, inside = transforms.cut_boxes(self.boxes * np.tile(factor, 2), image_size)
        return boxes[inside], self.labels[inside]

    def repeat_factors(self, threshold: float) -> np.ndarray:
        """[n] how often an epoch should show each image, at least 1 (arXiv:1908.03195, appendix).

        A class in the share f of the images gets max(1, √(threshold / f)); an image the largest of
        its classes'.
        """
        classes = len(self.class_names)
        image, label = np.divmod(np.unique(self.image * classes + self.labels), classes)
        share = np.bincount(label, minlength=classes) / len(self.sizes)
        factors = np.ones(len(self.sizes))
        np.maximum.at(factors, image, np.sqrt(threshold / share[label]))
        return factors


def create_statistics(source: Source) -> Statistics:
    """Statistics of all examples, or of some evenly chosen where only decoding tells the boxes."""
    known = not source.endless and bool(source.report.boxes)
    if known or (not source.endless and len(source) <= SAMPLED):
        return _collect(source.class_names, list(source.ground_truth()), complete=True)
    chosen = np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int)
    truths = [source[int(index)].truth for index in chosen]
    return _collect(source.class_names, truths, complete=False)


def _collect(
    class_names: ClassNames, truths: Sequence[GroundTruth], *, complete: bool
) -> Statistics:
    crowd = np.concatenate([truth.crowd for truth in truths])
    image = np.repeat(np.arange(len(truths)), [len(truth.boxes) for truth in truths])
    return Statistics(
        class_names,
        np.array([truth.size for truth in truths]).reshape(-1, 2),
        image[~crowd],
        np.concatenate([truth.boxes for truth in truths])[~crowd],
        np.concatenate([truth.labels for truth in truths])[~crowd],
        complete,
    )


def class_weights(
    text: str, class_names: ClassNames, counts: np.ndarray | None
) -> np.ndarray | None:
    """[K] factors of the classes' losses, None for none.

    Args:
      text: '' for none; 'auto' for 1 / √boxes, of mean 1 over all boxes; or 'cat:2,dog:0.5', where
        classes that aren't named have 1.
      counts: [K] boxes per class, for 'auto' only.

    Raises:
      ValueError: it is none of these.
    """
    if not text:
        return None
    if text == "auto":
        # A class without boxes has nothing to make up for.
        weights = 1 / np.sqrt(np.maximum(counts, 1))
        mean = np.sum(weights * counts) / max(np.sum(counts), 1)
        return np.where(counts > 0, weights / mean, 1.0)
    weights, index_of_name = np.ones(len(class_names)), class_names.index_of_name()
    for part in text.split(","):
        name, _, weight = (word.strip() for word in part.rpartition(":"))
        if name not in index_of_name or not _is_weight(weight):
            raise ValueError(
                f"{part!r} isn't a class and its weight, as in 'cat:2,dog:0.5'; the classes are "
                f"{class_names.preview(20)}"
            )
        weights[index_of_name[name]] = float(weight)
    return weights


def _is_weight(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False
