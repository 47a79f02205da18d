"""Boxes, names and scores drawn on an image."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from effdet_jax.classes import ClassNames
from effdet_jax.detection.postprocess import Detections

# Distinct on photographs and for most colour-blind eyes (Okabe & Ito's palette, brightened).
COLOURS = ("#ffb000", "#56b4e9", "#00d68f", "#f0e442", "#4c8dff", "#ff6f3c", "#e58fc0", "#ffffff")


def render(
    image: np.ndarray,
    detections: Detections,
    class_names: ClassNames | None = None,
    *,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """A copy of `image` with its detections drawn on it.

    Args:
      image: [H, W, 3] uint8 RGB.
      detections: of this image, boxes in its pixels.
      class_names: for the names; without them a class is its index.
      score_threshold: less certain ones aren't drawn.
    """
    shown = np.asarray(detections.valid) & (np.asarray(detections.scores) >= score_threshold)
    return draw_boxes(
        image,
        np.asarray(detections.boxes)[shown],
        np.asarray(detections.labels)[shown],
        class_names,
        np.asarray(detections.scores)[shown],
    )


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    class_names: ClassNames | None = None,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of `image` with boxes `[n, 4]` yxyx and their class names (and scores) drawn on it."""
    canvas = Image.fromarray(np.asarray(image))
    draw = ImageDraw.Draw(canvas)
    unit = max(1, round(min(canvas.size) / 250))
    font = ImageFont.load_default(size=max(10, 5 * unit + 6))
    # The surest last, on top.
    for number in range(len(boxes) - 1, -1, -1):
        top, left, bottom, right = (float(side) for side in boxes[number])
        label = int(classes[number])
        colour = COLOURS[label % len(COLOURS)]
        text = class_names.names[label] if class_names else f"class {label}"
        if scores is not None:
            text += f" {scores[number]:.2f}"
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=unit
        )
        text_box = draw.textbbox((left, top), text, font=font, anchor="lb")
        shift = max(0, -text_box[1])  # Keep the name inside the image.
        position = (left, top + shift)
        draw.rectangle(draw.textbbox(position, text, font=font, anchor="lb"), fill=colour)
        draw.text(position, text, font=font, fill="black", anchor="lb")
    return np.asarray(canvas)


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
