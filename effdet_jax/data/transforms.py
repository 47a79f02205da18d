"""Image and box transforms of training and evaluation: numpy and OpenCV, uint8 throughout.

The reference works on normalised float images; these work on uint8 and leave normalisation to the
device, a quarter of the bytes. The pixels agree within one grey level.
"""

import dataclasses

import cv2
import numpy as np

from effdet_jax.classes import IGNORED_PIXEL

cv2.setNumThreads(0)  # One thread per pipeline thread; OpenCV's own would fight over the cores.


@dataclasses.dataclass(frozen=True)
class Placement:
    """How an image comes onto the canvas, the network's input: resized, cropped, then padded.

    The canvas shows the resized image from `offset` on; what the image doesn't reach, at the bottom
    and right, is padding.

    Attributes:
      scaled: (height, width), pixels, that the whole image is resized to.
      offset: (y, x), pixels of the resized image, of the canvas's top left corner.
      output: (height, width) of the canvas, pixels.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]
    output: tuple[int, int]


def fit(image_size: tuple[int, int], output: tuple[int, int]) -> Placement:
    """Placement of evaluation: the largest that fits, aspect kept, at the top left corner."""
    return Placement(_scaled_size(image_size, output), (0, 0), output)


def place(image_size: tuple[int, int], output: tuple[int, int], crop: float = 0.0) -> Placement:
    """Placement of evaluation: `fit`, or the middle of the image.

    Args:
      crop: share of the largest centred rectangle of the canvas's aspect that fills the canvas; 0
        fits all of the image.
    """
    if not crop:
        return fit(image_size, output)
    scale = max(side / full for full, side in zip(image_size, output)) / crop
    scaled = tuple(max(side, round(full * scale)) for full, side in zip(image_size, output))
    offset = tuple((full - side) // 2 for full, side in zip(scaled, output))
    return Placement(scaled, offset, output)


def random_crop(
    image_size: tuple[int, int],
    output: tuple[int, int],
    least_area: float,
    rng: np.random.Generator,
) -> Placement:
    """A random part of the image that fills the canvas, as EfficientNet's training takes it.

    Its area is uniform in [least_area, 1] of the image's, its aspect in [3/4, 4/3] of the canvas's;
    after ten parts that would reach out of the image it is the centre.

    Args:
      least_area: share of the image's area.
    """
    height, width = image_size
    for _ in range(10):
        area = rng.uniform(least_area, 1) * height * width
        aspect = rng.uniform(3 / 4, 4 / 3) * output[1] / output[0]
        rows, columns = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            break
    else:
        return place(image_size, output, crop=1.0)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    scales = (output[0] / rows, output[1] / columns)
    # At least as large as the canvas needs, whatever is rounded.
    offset = tuple(int(start * scale) for start, scale in zip((top, left), scales))
    scaled = tuple(
        max(round(full * scale), start + side)
        for full, scale, start, side in zip(image_size, scales, offset, output)
    )
    return Placement(scaled, offset, output)


def jitter(
    image_size: tuple[int, int],
    output: tuple[int, int],
    scale: float,
    position: tuple[float, float],
) -> Placement:
    """Placement of training: fitted to a canvas `scale` times as large, then cropped.

    Args:
      image_size: (height, width) of the image.
      output: (height, width) of the canvas.
      scale: of the imagined canvas; the reference draws it from [0.1, 2.0].
      position: (y, x) in [0, 1) of the crop among all possible ones.
    """
    target = tuple(int(np.float32(scale) * np.float32(side)) for side in output)
    scaled = _scaled_size(image_size, target)
    offset = tuple(
        int(np.float32(max(0, full - side)) * np.float32(where))
        for full, side, where in zip(scaled, output, position)
    )
    return Placement(scaled, offset, output)


def _scaled_size(image_size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Size of the image fitted into `target`, in float32 and cut off as the reference does.

    The long side comes out one pixel short for some sizes; results would differ otherwise.
    """
    height, width = np.float32(image_size[0]), np.float32(image_size[1])
    scale = min(np.float32(target[0]) / height, np.float32(target[1]) / width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def image_scale(image_size: tuple[int, int], output: tuple[int, int]) -> float:
    """Original pixels per canvas pixel of `fit`: what maps boxes back, as the reference does."""
    ratios = [np.float32(side) / np.float32(full) for full, side in zip(image_size, output)]
    return float(np.float32(1.0) / min(ratios))


def letterbox(image: np.ndarray, placement: Placement) -> tuple[np.ndarray, tuple[int, int]]:
    """The canvas with the image on it, and (height, width) of what is covered.

    Args:
      image: [H, W, 3] uint8.

    Returns:
      [h, w, 3] uint8, zeros at the bottom and right of the covered part.
    """
    height, width = placement.scaled
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = placement.offset
    bottom, right = (start + side for start, side in zip(placement.offset, placement.output))
    image = image[top:bottom, left:right]
    canvas = np.zeros((*placement.output, 3), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas, image.shape[:2]


def network_input(
    image: np.ndarray, output: tuple[int, int], crop: float = 0.0
) -> dict[str, np.ndarray]:
    """What a model takes of an image, but for the axis of a batch.

    Args:
      image: [H, W, 3] uint8.
      output: (height, width) of the canvas.
      crop: see `place`.

    Returns:
      image: [h, w, 3] uint8, the canvas.
      content: [2] int32 (height, width) of the part that isn't padding.
      scale: float32, original pixels per canvas pixel.
      size: [2] float32 (height, width) of the original image.
    """
    size = image.shape[:2]
    canvas, content = letterbox(image, place(size, output, crop))
    return {
        "image": canvas,
        "content": np.array(content, np.int32),
        "scale": np.float32(image_scale(size, output)),
        "size": np.array(size, np.float32),
    }


def letterbox_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """The canvas with a mask on it: each pixel is that of the mask under its middle, no mixture.

    Args:
      mask: [H, W] uint8.

    Returns:
      [h, w] uint8, `classes.IGNORED_PIXEL` at the bottom and right of the covered part.
    """
    mask = resize_mask(mask, placement.scaled)
    top, left = placement.offset
    bottom, right = (start + side for start, side in zip(placement.offset, placement.output))
    mask = mask[top:bottom, left:right]
    canvas = np.full(placement.output, IGNORED_PIXEL, np.uint8)
    canvas[: mask.shape[0], : mask.shape[1]] = mask
    return canvas


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] at another (height, width), without mixing values."""
    if mask.shape == tuple(size):
        return mask
    return cv2.resize(mask, tuple(size)[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def mask_from_canvas(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A network's mask in the image's own (height, width): back from the placement of `fit`."""
    height, width = fit(size, mask.shape).scaled
    return resize_mask(np.ascontiguousarray(mask[:height, :width]), size)


def letterbox_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], placement: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes on the canvas and cut to it, see `cut_boxes`.

    Args:
      boxes: [n, 4] yxyx, pixels of the image.
      image_size: (height, width) of the image.

    Returns:
      [n, 4] float32 yxyx, canvas pixels; [n] bool, False for boxes without area.
    """
    size = np.array([*image_size, *image_size], np.float32)
    scaled = np.array([*placement.scaled, *placement.scaled], np.float32)
    offset = np.array([*placement.offset, *placement.offset], np.float32)
    return cut_boxes(boxes.astype(np.float32) / size * scaled - offset, placement.output)


def cut_boxes(boxes: np.ndarray, output: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] yxyx cut to [0, side - 1] of a canvas, as the reference does.

    Returns:
      [n, 4] float32; [n] bool, False for boxes without area.
    """
    limit = np.array([*output, *output], np.float32) - 1
    boxes = np.clip(boxes, 0, limit)
    return boxes, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0


def flip_horizontally(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors left and right; boxes [n, 4] yxyx in pixels of the image."""
    width = image.shape[1]
    flipped = boxes[:, [0, 3, 2, 1]] * np.array([1, -1, 1, -1], boxes.dtype)
    return cv2.flip(image, 1), flipped + np.array([0, width, 0, width], boxes.dtype)


def flip_vertically(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors top and bottom; boxes [n, 4] yxyx in pixels of the image."""
    height = image.shape[0]
    flipped = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], boxes.dtype)
    return cv2.flip(image, 0), flipped + np.array([height, 0, height, 0], boxes.dtype)


def jitter_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast and saturation of up to ± `strength` of their value.

    Args:
      image: [H, W, 3] uint8.
      strength: in [0, 1].
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    image = image.astype(np.float32) * brightness
    image = (image - image.mean()) * contrast + image.mean()
    gray = image.mean(axis=2, keepdims=True)
    image = (image - gray) * saturation + gray
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
