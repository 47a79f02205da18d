"""Boxes, names and scores drawn on an image."""

import bisect
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from effdet_jax.classes import ClassNames
from effdet_jax.detection.postprocess import Detections

# Distinct on photographs and for most colour-blind eyes (Okabe & Ito's palette, brightened).
COLOURS = ("#ffb000", "#56b4e9", "#00d68f", "#f0e442", "#4c8dff", "#ff6f3c", "#e58fc0", "#ffffff")
_GROUND = 220  # Opacity of the ground behind a name, of 255.
_TINT = 0.5  # Opacity of a mask.


def render(
    image: np.ndarray,
    detections: Detections,
    class_names: ClassNames | None = None,
    *,
    score_threshold: float = 0.3,
    least_side: int = 0,
) -> np.ndarray:
    """A copy of `image` with its detections drawn on it.

    Args:
      image: [H, W, 3] uint8 RGB.
      detections: of this image, boxes in its pixels.
      class_names: for the names; without them a class is its index.
      score_threshold: less certain ones aren't drawn.
      least_side: see `draw_boxes`.
    """
    shown = np.asarray(detections.valid) & (np.asarray(detections.scores) >= score_threshold)
    return draw_boxes(
        image,
        np.asarray(detections.boxes)[shown],
        np.asarray(detections.labels)[shown],
        class_names,
        np.asarray(detections.scores)[shown],
        least_side=least_side,
    )


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    class_names: ClassNames | None = None,
    scores: np.ndarray | None = None,
    *,
    least_side: int = 0,
) -> np.ndarray:
    """A copy of `image` with boxes `[n, 4]` yxyx and their class names (and scores) drawn on it.

    A name stands above, below or inside its box, wherever it hides least of the other boxes and
    names, and always inside the image; what is longer than the image is wide is cut short.

    Args:
      image: [H, W, 3] uint8 RGB.
      boxes: [n, 4], pixels of the image.
      classes: [n] class indices.
      class_names: for the names; without them a class is its index.
      scores: [n], the surest first.
      least_side: the copy is a whole number of times as large, so that its shorter side has at
        least that many pixels: names need some.
    """
    canvas = Image.fromarray(np.asarray(image))
    times = max(1, math.ceil(least_side / min(canvas.size)))
    canvas = canvas.resize((times * canvas.width, times * canvas.height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas, "RGBA")  # Blends what is drawn.
    width = max(1, round(min(canvas.size) / 250))
    pen = _Pen(ImageFont.load_default(size=max(9, round(6 + min(canvas.size) / 50))), canvas.size)
    frames = _frames(times * np.asarray(boxes))
    texts, places = [], np.zeros((0, 4))
    for number, frame in enumerate(frames):
        name = class_names.names[classes[number]] if class_names else f"class {classes[number]}"
        score = "" if scores is None else f" {scores[number]:.2f}"
        texts.append(pen.fit(name, score))
        place = pen.place(texts[-1], frame, np.delete(frames, number, axis=0), places)
        places = np.concatenate([places, place[None]])
    # The surest last, on top; and names on all frames.
    for number in reversed(range(len(frames))):
        colour = COLOURS[classes[number] % len(COLOURS)]
        draw.rectangle(tuple(frames[number]), outline=colour, width=width)
    for number in reversed(range(len(frames))):
        colour = ImageColor.getrgb(COLOURS[classes[number] % len(COLOURS)])
        pen.write(draw, texts[number], places[number], colour)
    return np.asarray(canvas)


def draw_mask(image: np.ndarray, mask: np.ndarray, class_names: ClassNames) -> np.ndarray:
    """A copy of `image` with each class of a mask in its colour, and their names in a corner.

    Args:
      image: [H, W, 3] uint8 RGB.
      mask: [H, W] uint8: 0 is background, 1 + class index; other values are left as they are.
      class_names: for the names.
    """
    canvas = np.array(image)
    present = [value for value in np.unique(mask).tolist() if 0 < value <= len(class_names)]
    for value in present:
        colour = ImageColor.getrgb(COLOURS[(value - 1) % len(COLOURS)])
        pixels = mask == value
        canvas[pixels] = (1 - _TINT) * canvas[pixels] + _TINT * np.array(colour)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    pen = _Pen(ImageFont.load_default(size=max(9, round(6 + min(picture.size) / 50))), picture.size)
    for row, value in enumerate(present):
        colour = ImageColor.getrgb(COLOURS[(value - 1) % len(COLOURS)])
        pen.write(draw, *pen.line(class_names.names[value - 1], row), colour)
    return np.asarray(picture)


def _frames(boxes: np.ndarray) -> np.ndarray:
    """[n, 4] (left, top, right, bottom), the first and last pixels of boxes yxyx, which are half-open."""
    top, left, bottom, right = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([left, top, np.maximum(left, right - 1), np.maximum(top, bottom - 1)], axis=1)


class _Pen:
    """Writes names; rectangles are (left, top, right, bottom).

    Args:
      font: to write with.
      size: (width, height) of the image.
    """

    def __init__(self, font: ImageFont.FreeTypeFont, size: tuple[int, int]):
        self._font, (self._width, self._height) = font, size
        _, top, _, bottom = font.getbbox("Ápg", anchor="ls")  # About the line letters stand on.
        self._margin = max(1, round(font.size / 8))
        self._ascent, self._line = self._margin - top, bottom - top + 2 * self._margin

    def fit(self, name: str, score: str) -> str:
        """The name in one line, as much of it as is no wider than the image, and the score."""
        name = " ".join(name.split())
        if self._text_width(name + score) <= self._width:
            return name + score
        room = bisect.bisect_right(
            range(len(name)), self._width, key=lambda n: self._text_width(f"{name[:n]}…{score}")
        )
        return f"{name[: max(0, room - 1)]}…{score}"

    def place(
        self, text: str, frame: np.ndarray, frames: np.ndarray, names: np.ndarray
    ) -> np.ndarray:
        """Where to write the text of a frame, beside other frames and names."""
        width, line = self._text_width(text), self._line
        left, top, right, bottom = frame
        aligned = (left, right + 1 - width)
        # In order of preference: above, inside at the top, below, inside at the bottom.
        rows = (top - line, top, bottom + 1, bottom + 1 - line)
        corners = np.array([(x, y) for y in rows for x in aligned])
        corners = corners.clip(0, (max(0, self._width - width), max(0, self._height - line)))
        places = np.concatenate([corners, corners + (width, line)], axis=1).round()
        hidden = _shared(places, names).sum(axis=1)
        for edge in ((0, 1, 0, 3), (2, 1, 2, 3), (0, 1, 2, 1), (0, 3, 2, 3)):
            sides = frames[:, edge] + (0, 0, 1, 1)
            hidden += line * _shared(places, sides).sum(axis=1)
        return places[np.argmin(hidden)]

    def line(self, name: str, row: int) -> tuple[str, np.ndarray]:
        """A name in row `row` of a list in the top left corner, and its place."""
        text, top = self.fit(name, ""), row * self._line
        return text, np.array([0, top, self._text_width(text), top + self._line])

    def write(
        self, draw: ImageDraw.ImageDraw, text: str, place: np.ndarray, colour: tuple[int, ...]
    ):
        """The text, black on a ground of that colour through which the image can be seen."""
        left, top, right, bottom = place
        draw.rectangle((left, top, right - 1, bottom - 1), fill=(*colour, _GROUND))
        position = (left + self._margin, top + self._ascent)
        draw.text(position, text, font=self._font, fill="black", anchor="ls")

    def _text_width(self, text: str) -> int:
        return math.ceil(self._font.getlength(text)) + 2 * self._margin


def _shared(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, m] area that rectangles [n, 4] and [m, 4] share, half-open."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


def grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images `[H, W, 3]` side by side in a near-square grid of the first's size, gaps black."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images[0].shape[:2]
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * height, number % columns * width
        cell = Image.fromarray(image)
        cell.thumbnail((width, height))
        canvas[top : top + cell.height, left : left + cell.width] = np.asarray(cell)
    return canvas


def save_mask(mask: np.ndarray, path: str):
    """Writes a mask [H, W] uint8 as a PNG of its values; a palette shows them in colours."""
    picture = Image.fromarray(mask)
    palette = [(0, 0, 0)] + [ImageColor.getrgb(COLOURS[n % len(COLOURS)]) for n in range(255)]
    picture.putpalette([channel for colour in palette for channel in colour])
    picture.save(path)
