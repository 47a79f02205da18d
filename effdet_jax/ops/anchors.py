"""Anchor boxes: one grid per pyramid level, in the reference's order level, y, x, octave, aspect."""

from collections.abc import Sequence

import numpy as np

# A batch marks what is ignored on this level's grid: fine enough for any anchor's centre.
IGNORED_LEVEL = 3


def feature_size(image_size: tuple[int, int], level: int) -> tuple[int, int]:
    """Height and width of a pyramid level: the image halved `level` times, rounded up each time."""
    height, width = image_size
    for _ in range(level):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def anchor_boxes(
    image_size: tuple[int, int],
    levels: Sequence[int],
    *,
    octaves: int = 3,
    aspects: Sequence[tuple[float, float]] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
    scale: float = 4.0,
) -> dict[int, np.ndarray]:
    """Anchors of every cell of every level, as the reference lays them out.

    The stride is image size / feature size, a fraction where the size is no multiple of 2**level.
    Anchors are not clipped to the image. They depend on sizes only, so they are numpy constants.

    Args:
      image_size: (height, width) of the network input, pixels.
      levels: pyramid levels, ascending.
      octaves: scales per octave: sizes are multiplied by 2**(o / octaves), o = 0, 1, ….
      aspects: (width factor, height factor) of each shape.
      scale: side of the smallest square anchor in strides.

    Returns:
      {level: [H, W, A, 4] float32 yxyx boxes, input pixels}, A = octaves × len(aspects).
    """
    factors = [
        (2.0 ** (octave / octaves) * high, 2.0 ** (octave / octaves) * wide)
        for octave in range(octaves)
        for wide, high in aspects
    ]
    height_factor, width_factor = np.array(factors).reshape(-1, 2).T  # [A], [A]
    anchors = {}
    for level in levels:
        rows, columns = feature_size(image_size, level)
        stride_y, stride_x = image_size[0] / rows, image_size[1] / columns
        y = (np.arange(rows) * stride_y + stride_y / 2)[:, None, None]
        x = (np.arange(columns) * stride_x + stride_x / 2)[None, :, None]
        half_height = scale * stride_y * height_factor / 2
        half_width = scale * stride_x * width_factor / 2
        corners = (y - half_height, x - half_width, y + half_height, x + half_width)
        boxes = np.stack(np.broadcast_arrays(*corners), axis=-1)  # [H, W, A, 4]
        anchors[level] = boxes.astype(np.float32)
    return anchors


def corner_anchor_boxes(
    image_size: tuple[int, int],
    levels: Sequence[int],
    *,
    octaves: int,
    aspects: Sequence[tuple[float, float]],
    scale: float,
) -> dict[int, np.ndarray]:
    """Anchors as torchvision's RetinaNet lays them out; arguments and result as `anchor_boxes`.

    They stand around the corner of their cell that is nearest the origin, sizes and corners are
    whole pixels, the stride is whole, too (image size // feature size), and a cell's anchors are in
    the order aspect, octave.
    """
    anchors = {}
    for level in levels:
        rows, columns = feature_size(image_size, level)
        sizes = [int(scale * 2**level * 2 ** (octave / octaves)) for octave in range(octaves)]
        sides = np.array(
            [(high * size, wide * size) for wide, high in aspects for size in sizes], np.float32
        )
        boxes = np.round(np.concatenate([-sides, sides], axis=1) / 2)  # [A, 4]
        y = np.arange(rows)[:, None] * (image_size[0] // rows)
        x = np.arange(columns)[None, :] * (image_size[1] // columns)
        corners = np.stack(np.broadcast_arrays(y, x, y, x), axis=-1)[:, :, None]  # [H, W, 1, 4]
        anchors[level] = (corners + boxes).astype(np.float32)
    return anchors


# Name → function of image size and levels, as a spec's `anchor_layout` gives it.
LAYOUTS = {"centred": anchor_boxes, "corner": corner_anchor_boxes}
