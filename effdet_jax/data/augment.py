"""The door for augmentation: `AUGMENTATIONS` by name; `config.augment.ops` lists those to apply.

The training view of an example is made by the listed augmentations, one after the other. All they
draw comes from one random generator per example, so that a batch depends on its step and seed alone.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from effdet_jax.data import transforms
from effdet_jax.data.sample import AugmentSettings, Draw, Op, Sample
from effdet_jax.errors import UserError


class AugmentError(UserError):
    """An augmentation that doesn't exist is asked for; the message lists those that do."""


def flip(settings: AugmentSettings) -> Op:
    """Mirrors left and right, top and bottom, each with its probability."""

    def op(sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
        if rng.random() < settings.horizontal_flip:
            sample = sample.flip_horizontally()
        if rng.random() < settings.vertical_flip:
            sample = sample.flip_vertically()
        return sample

    return op


def scale_jitter(settings: AugmentSettings) -> Op:
    """Resizes by a random scale and crops to the network's canvas, as the reference does."""

    def op(sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
        scale = rng.uniform(settings.scale_min, settings.scale_max)
        position = (rng.random(), rng.random())
        size = settings.image_size
        return sample.letterbox(transforms.jitter(sample.content, size, scale, position))

    return op


def random_crop(settings: AugmentSettings) -> Op:
    """A random part of the image fills the canvas, as classifiers are trained."""

    def op(sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
        area, size = settings.crop_area, settings.image_size
        return sample.letterbox(transforms.random_crop(sample.content, size, area, rng))

    return op


def colour(settings: AugmentSettings) -> Op:
    """Random brightness, contrast and saturation of the pixels that aren't padding."""

    def op(sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
        if not settings.colour:
            return sample
        return sample.with_pixels(transforms.jitter_colour(sample.pixels, settings.colour, rng))

    return op


# name → (settings) → op; a new augmentation is a function, in a file of its own, and a line here.
AUGMENTATIONS: dict[str, Callable[[AugmentSettings], Op]] = {
    "flip": flip,
    "scale_jitter": scale_jitter,
    "random_crop": random_crop,
    "colour": colour,
}


def check_ops(ops: Sequence[str]):
    """Catches a misspelt augmentation before any work is done.

    Raises:
      AugmentError: a name isn't in `AUGMENTATIONS`; the message lists those that are.
    """
    for name in ops:
        if name not in AUGMENTATIONS:
            known = ", ".join(repr(known) for known in AUGMENTATIONS)
            raise AugmentError(
                f"config.augment.ops: {name!r} isn't one of {known}. Several are written so: "
                "--config.augment.ops=\"('flip', 'scale_jitter')\""
            )


class Augment:
    """All of `settings.ops` in order, an `Op`: from an example's sample to one on the network's canvas.

    An image that no op has brought to the canvas's size is fitted as evaluation does. Boxes are cut
    to [0, side - 1] of the canvas, as the reference does; those without area are left out.

    Raises:
      AugmentError: an op isn't in `AUGMENTATIONS`.
    """

    def __init__(self, settings: AugmentSettings):
        check_ops(settings.ops)
        self._settings = settings
        self._entries = [AUGMENTATIONS[name] for name in settings.ops]
        self._ops = [entry(settings) for entry in self._entries]

    def __call__(self, sample: Sample, rng: np.random.Generator, draw: Draw) -> Sample:
        size = tuple(self._settings.image_size)
        for op in self._ops:
            sample = op(sample, rng, draw)
        if sample.image.shape[:2] != size:
            sample = sample.letterbox(transforms.place(sample.content, size, self._settings.crop))
        boxes, inside = transforms.cut_boxes(sample.boxes, size)
        return dataclasses.replace(sample, boxes=boxes[inside], labels=sample.labels[inside])

    def __getstate__(self) -> tuple[AugmentSettings, list[Callable[[AugmentSettings], Op]]]:
        return self._settings, self._entries

    def __setstate__(self, state: tuple[AugmentSettings, list[Callable[[AugmentSettings], Op]]]):
        # A worker process makes its own ops: they may be closures, which don't pickle well.
        self._settings, self._entries = state
        self._ops = [entry(self._settings) for entry in self._entries]
