"""What augmentations work on and are made from: a `Sample`, the `AugmentSettings`, an `Op`."""

import dataclasses
from collections.abc import Callable

import numpy as np

from effdet_jax.data import transforms
from effdet_jax.data.example import Example


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """What augmentations are made from: the network's canvas and the values below `config.augment`.

    Attributes:
      image_size: (height, width) of the network input, pixels.
      ops: entries of `data.augment.AUGMENTATIONS`, in the order to apply them.
      scale_min, scale_max: range of the canvas scale, see `transforms.jitter`.
      horizontal_flip, vertical_flip: probabilities.
      colour: strength of random brightness, contrast and saturation, 0 for none.
      crop_area: least share of an image that `random_crop` takes.
      crop: of an image that no op brings to the canvas, see `transforms.place`.
    """

    image_size: tuple[int, int]
    ops: tuple[str, ...] = ("flip", "scale_jitter", "colour")
    scale_min: float = 0.1
    scale_max: float = 2.0
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    colour: float = 0.0
    crop_area: float = 0.08
    crop: float = 0.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image on its way to the network. Augmentations return a new one and change no array in place.

    Attributes:
      image: [H, W, 3] RGB uint8; zeros below and to the right of `content`.
      boxes: [n, 4] yxyx float32, pixels of `image`.
      labels: [n] int32 class indices.
      content: (height, width) of the part of `image`, from its top left corner, that isn't padding.
      mask: [H, W] uint8 of `image`, see `example.Example`; None where masks aren't asked for.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    content: tuple[int, int]
    mask: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """[h, w, 3]: the image without its padding."""
        return self.image[: self.content[0], : self.content[1]]

    def with_pixels(self, pixels: np.ndarray) -> "Sample":
        """The same sample with other values in place of `pixels`, of the same shape."""
        if pixels.shape == self.image.shape:
            return dataclasses.replace(self, image=pixels)
        image = np.zeros_like(self.image)
        image[: self.content[0], : self.content[1]] = pixels
        return dataclasses.replace(self, image=image)

    def flip_horizontally(self) -> "Sample":
        """The sample with left and right mirrored; padding stays where it is."""
        pixels, boxes = transforms.flip_horizontally(self.pixels, self.boxes)
        return dataclasses.replace(
            self.with_pixels(pixels), boxes=boxes, mask=self._flipped_mask(axis=1)
        )

    def flip_vertically(self) -> "Sample":
        """The sample with top and bottom mirrored; padding stays where it is."""
        pixels, boxes = transforms.flip_vertically(self.pixels, self.boxes)
        return dataclasses.replace(
            self.with_pixels(pixels), boxes=boxes, mask=self._flipped_mask(axis=0)
        )

    def _flipped_mask(self, axis: int) -> np.ndarray | None:
        if self.mask is None:
            return None
        mask, (height, width) = self.mask.copy(), self.content
        mask[:height, :width] = np.flip(self.mask[:height, :width], axis)
        return mask

    def letterbox(self, placement: transforms.Placement) -> "Sample":
        """The sample on another canvas; boxes are cut to it, those without area are left out."""
        mask, (height, width) = self.mask, self.content
        if mask is not None:
            mask = transforms.letterbox_mask(mask[:height, :width], placement)
        image, content = transforms.letterbox(self.pixels, placement)
        boxes, inside = transforms.letterbox_boxes(self.boxes, self.content, placement)
        return Sample(image, boxes[inside], self.labels[inside], content, mask)


# (sample, rng, draw) → sample. `draw()` gives another sample of the source, chosen by `rng` and not
# augmented; it is black and has no boxes where its image can't be read.
Draw = Callable[[], Sample]
Op = Callable[[Sample, np.random.Generator, Draw], Sample]


def create_sample(example: Example) -> Sample:
    """An example as training sees it: without crowd boxes, boxes cut to the image."""
    image, truth = example.image, example.truth
    height, width = image.shape[:2]
    limit = np.array([height, width, height, width], np.float32)
    boxes = np.clip(truth.boxes[~truth.crowd], 0, limit)
    return Sample(image, boxes, truth.labels[~truth.crowd], (height, width), example.mask)
