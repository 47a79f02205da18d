"""`shapes`: rendered scenes with exact boxes, deterministic and endless, made where they are used.

A small detection task that needs no download and isn't trivial: six shapes of any size, angle and
colour over textured ground and clutter, overlapping, some faint, some cut by the border.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from effdet_jax.classes import BACKGROUND, IGNORED_PIXEL, ClassNames
from effdet_jax.data.example import DataReport, Example, GroundTruth, make_truth

NAMES = ("circle", "rectangle", "triangle", "star", "ring", "cross")
# A shape is labelled if this share of it can be seen, and at least this many pixels.
VISIBLE_SHARE, VISIBLE_PIXELS = 0.5, 48


class Shapes:
    """Scene i is drawn from (seed, i): a `data.example.Source` without files.

    Args:
      size: (height, width) of the scenes, pixels.
      length: scenes that count as an epoch, or all of them if `endless` is False.
      seed: different seeds give different scenes.
      endless: whether indices beyond `length` give new scenes (training) or none (evaluation).
      masks: whether examples have masks; shapes without a label are ignored there.
      most: shapes in a scene.
    """

    def __init__(
        self,
        size: tuple[int, int],
        length: int,
        *,
        seed: int = 0,
        endless: bool = False,
        masks: bool = False,
        most: int = 8,
    ):
        self.size, self.seed, self.endless = tuple(size), seed, endless
        self._length, self._masks, self._most = length, masks, most
        self.class_names = ClassNames.from_names(NAMES)
        self.report = DataReport()
        self.report.images = length
        self.report.notes.append(f"rendered as they are needed, {size[1]}×{size[0]}, seed {seed}")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.seed, index))
        image = _background(rng, self.size)
        _draw_clutter(rng, image)
        owner = np.full(self.size, -1, np.int32)  # Which object a pixel shows.
        classes, drawn_pixels = [], []
        for number in range(rng.integers(1, self._most + 1)):
            label = int(rng.integers(len(NAMES)))
            mask = _shape_mask(rng, self.size, NAMES[label])
            _paint(rng, image, mask)
            owner[mask] = number
            classes.append(label)
            drawn_pixels.append(int(mask.sum()))
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
        image += rng.normal(0, rng.uniform(2, 8), image.shape).astype(np.float32)
        rows, values = [], np.full(len(classes) + 1, IGNORED_PIXEL, np.uint8)
        values[-1] = BACKGROUND
        for number, (label, drawn) in enumerate(zip(classes, drawn_pixels)):
            seen_y, seen_x = np.nonzero(owner == number)
            if len(seen_y) < max(VISIBLE_PIXELS, VISIBLE_SHARE * drawn):
                continue
            box = (seen_y.min(), seen_x.min(), seen_y.max() + 1, seen_x.max() + 1)
            rows.append(([float(side) for side in box], label, False, float(len(seen_y))))
            values[number] = 1 + label
        truth = make_truth(index, self.size, rows)
        mask = values[owner] if self._masks else None
        return Example(np.clip(image, 0, 255).astype(np.uint8), truth, mask=mask)

    def describe(self, index: int) -> str:
        return f"shapes scene {index}"

    def ground_truth(self) -> Iterator[GroundTruth]:
        return (self[index].truth for index in range(len(self)))


def open_shapes(split: str, options: Mapping[str, Any]) -> Shapes:
    """Scenes of a split, an entry of `data.source.SOURCES`: endless for training, else counted.

    Args:
      options: `shapes_size` (side of a scene, pixels), `shapes_train` and `shapes_val` (scenes), and
        `needs`.
    """
    side = options["shapes_size"]
    # Scenes of the two splits never meet: their seeds differ.
    return Shapes(
        (side, side),
        options[f"shapes_{split}"],
        seed=int(split == "val"),
        endless=split == "train",
        masks="masks" in options.get("needs", ()),
        most=options["shapes_most"],
    )


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] float32: colour noise of several grains over a gradient."""
    height, width = size
    image = np.zeros((height, width, 3), np.float32)
    for grain in (2, 5, 16, 48):
        noise = rng.normal(0, rng.uniform(4, 16), (grain, grain, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * rng.uniform(-30, 30)
    return image + ramp + rng.uniform(60, 190, 3).astype(np.float32)


def _draw_clutter(rng: np.random.Generator, image: np.ndarray):
    """Lines and dots of no class, so that an edge alone isn't an object."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(0, 8)):
        points = rng.integers(0, (width, height), (2, 2))
        colour = rng.uniform(0, 255, 3).tolist()
        if rng.random() < 0.6:
            cv2.line(image, points[0].tolist(), points[1].tolist(), colour, int(rng.integers(1, 3)))
        else:
            cv2.circle(image, points[0].tolist(), int(rng.integers(1, 3)), colour, -1)


def _shape_mask(rng: np.random.Generator, size: tuple[int, int], name: str) -> np.ndarray:
    """[H, W] bool: a shape somewhere in the image, possibly cut by its border."""
    short = min(size)
    radius = short * float(np.exp(rng.uniform(np.log(0.09), np.log(0.28))))
    centre = rng.uniform(0.02, 0.98, 2) * (size[1], size[0])
    stretch = rng.uniform(0.75, 1.33)
    angle = rng.uniform(0, 2 * np.pi)
    mask = np.zeros(size, np.uint8)
    for outline, value in _outlines(name):
        turned = outline * (radius * stretch, radius / stretch)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = turned @ rotation.T + centre
        # Four fractional bits: a shape may start anywhere within a pixel.
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], value, shift=4)
    return mask.astype(bool)


def _outlines(name: str) -> list[tuple[np.ndarray, int]]:
    """Unit outlines `[n, 2]` in the order to fill: 1 adds, 0 cuts out."""
    if name == "circle":
        return [(_polygon(40), 1)]
    if name == "rectangle":
        return [(np.array([(0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)]), 1)]
    if name == "triangle":
        return [(_polygon(3), 1)]
    if name == "star":
        return [(_polygon(10) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None], 1)]
    if name == "ring":
        return [(_polygon(40), 1), (_polygon(40) * 0.55, 0)]
    arm = 0.32
    corners = [(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)]
    corners += [(-x, -y) for x, y in corners]
    return [(np.array(corners), 1)]


def _polygon(corners: int) -> np.ndarray:
    angles = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray):
    """Fills a mask with a colour of its own, at least somewhat unlike the ground below it."""
    if not mask.any():
        return
    ground = image[mask].mean(0)
    contrast = rng.uniform(60, 120)
    direction = rng.normal(size=3)
    colour = ground + contrast * direction / np.linalg.norm(direction) * np.sqrt(3)
    opacity = rng.uniform(0.8, 1.0)
    image[mask] = (1 - opacity) * image[mask] + opacity * colour.astype(np.float32)
