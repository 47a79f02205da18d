"""Image files of any kind to RGB pixels, and their size without decoding."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from effdet_jax.data.example import DataError

_ORIENTATION = 0x0112  # EXIF tag.


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """[H, W, 3] RGB uint8 of any image file: JPEG, PNG, WebP, …; grayscale, alpha, 16 bit, CMYK.

    An EXIF orientation is applied, unless `size` says that the boxes belong to the image as stored.
    Transparent pixels become black; 16-bit values are divided by 257.

    Args:
      data: the file's bytes.
      size: (height, width) that the annotations give, if they do.

    Raises:
      DataError: the bytes are no image, or a broken one.
    """
    if not data:
        raise DataError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
        stored = (image.height, image.width)
        if image.format == "JPEG" and image.mode == "RGB" and _is_upright(image):
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return pixels
        upright = ImageOps.exif_transpose(image)
        if size is not None and stored == tuple(size) != (upright.height, upright.width):
            upright = image
        return _to_rgb(upright)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise DataError(f"not a readable image: {error}") from error


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) == 1


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The same pixels in half of Pillow's time; None if the file has no end: OpenCV would make one up."""
    if not data.endswith(b"\xff\xd9"):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and 32-bit grayscale.
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if values.max(initial=0.0) > 255.0 else 255.0
        gray = np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(image.convert("RGB"))


def image_size(path: str) -> tuple[int, int]:
    """(height, width) from an image file's header, EXIF orientation applied.

    Raises:
      DataError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            exif = Image.Exif()
            if "exif" in image.info:  # `image.getexif()` would decode a whole PNG to look for it.
                exif.load(image.info["exif"])
            turned = exif.get(_ORIENTATION, 1) >= 5  # Orientations 5–8 swap the sides.
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise DataError(f"not a readable image: {error}") from error
