"""Image files of any kind to RGB pixels, and what their headers say without decoding."""

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from effdet_jax.data.example import DataError

# The user's own files, however large: aerial and microscope images have gigapixels.
Image.MAX_IMAGE_PIXELS = None
# Remarks on odd metadata, without the name of a file. What can't be decoded is an error here.
warnings.filterwarnings("ignore", module=r"PIL\.")

Intensity = tuple[float, float] | tuple[()]

_ORIENTATION = 0x0112  # EXIF tag.
_LAST_BYTES = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_UNREADABLE = (OSError, SyntaxError, ValueError, UnidentifiedImageError)
# Percentiles that a few dead or hot pixels don't move.
_PERCENTILES = (0.1, 99.9)
_SAMPLED_FILES, _SAMPLED_PIXELS = 64, 100_000


class Header(NamedTuple):
    """What a file says before it is decoded.

    Attributes:
      size: (height, width), EXIF orientation applied.
      stored: (height, width) as stored.
      mode: Pillow's: 'RGB', 'L', 'CMYK', …; 'RGB;16' for 16-bit colour.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    mode: str

    @property
    def deep(self) -> bool:
        """Whether its values need an intensity range to become 8 bits."""
        return _is_deep(self.mode)


def decode_image(
    data: bytes, size: tuple[int, int] | None = None, intensity: Intensity = ()
) -> np.ndarray:
    """[H, W, 3] RGB uint8 of any image file: JPEG, PNG, WebP, …; grayscale, alpha, 16 bit, CMYK.

    An EXIF orientation is applied, unless `size` says that the boxes belong to the image as stored.
    Transparent pixels become black.

    Args:
      data: the file's bytes.
      size: (height, width) that the annotations give, if they do.
      intensity: (low, high), the values of 16-bit and float images that become 0 and 255; () takes
        0 and 65535, for floats 0 and 1.

    Raises:
      DataError: the bytes are no image, or a broken one.
    """
    try:
        image = _open(io.BytesIO(data))
        stored = (image.height, image.width)
        if image.format == "JPEG" and image.mode == "RGB" and _is_upright(image):
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return pixels
        if _is_deep(_mode(image)):
            image = _to_8_bit(image, data, intensity)
        upright = ImageOps.exif_transpose(image)
        if size is not None and stored == tuple(size) != (upright.height, upright.width):
            upright = image
        return _to_rgb(upright)
    except _UNREADABLE as error:
        raise DataError(f"not a readable image: {error}") from error


def read_image(path: str, intensity: Intensity = ()) -> np.ndarray:
    """[H, W, 3] RGB uint8 of an image file, see `decode_image`.

    Raises:
      DataError: there is no such file, or it is no image; names it.
    """
    try:
        with open(path, "rb") as file:
            return decode_image(file.read(), intensity=intensity)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def convert_image(image: Any, intensity: Intensity = ()) -> np.ndarray:
    """[H, W, 3] RGB uint8 of an image in memory; a warning says what was converted.

    Grey values are taken for red, green and blue, transparent pixels become black, and 16-bit values
    go by `intensity` as those of files do. Floats do so too where there is an `intensity`: else
    nothing says what is white, and they are refused. RGB arrays of uint8 are given back as they are.
    A Pillow image keeps its pixels where they are, whatever its EXIF orientation.

    Args:
      image: a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or, of uint8, [H, W, 4].
      intensity: see `decode_image`.

    Raises:
      DataError: it is none of these.
    """
    if isinstance(image, Image.Image):
        if not _is_upright(image):
            _warn("an image says that it is to be turned; ImageOps.exif_transpose(image) does it")
        if not _is_deep(image.mode):
            _warn_of_mode(image)
            return _to_rgb(image)
    pixels = np.asarray(image)
    if pixels.dtype == np.int32 and isinstance(image, Image.Image):
        pixels = pixels.clip(0, 65535).astype(np.uint16)  # Pillow's 'I': 16 bits in its files.
    _check_array(pixels, intensity)
    if pixels.dtype != np.uint8:
        low, high = intensity or (0.0, 65535.0)
        _warn(f"{pixels.dtype} image: {low:g} becomes 0 and {high:g} becomes 255")
        pixels = _scaled(pixels.astype(np.float64), low, high)
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    converted = Image.fromarray(pixels)
    _warn_of_mode(converted)
    return _to_rgb(converted)


def _check_array(pixels: np.ndarray, intensity: Intensity):
    """Raises `DataError` for what `convert_image` doesn't take; says what to do with it."""
    shape, dtype = pixels.shape, pixels.dtype
    channels = (1, 3, 4) if dtype == np.uint8 else (1, 3)
    what = f"is {dtype} {shape}"
    if pixels.ndim not in (2, 3) or 0 in shape:
        raise DataError(f"{what}; it must be uint8 [H, W, 3] RGB")
    if pixels.ndim == 3 and shape[2] not in channels:
        first = (
            "; channels come last: image.transpose(1, 2, 0)"
            if shape[0] in channels and shape[2] > 4
            else ""
        )
        raise DataError(f"{what}; it must be uint8 [H, W, 3] RGB{first}")
    if dtype in (np.uint8, np.uint16) or (dtype.kind == "f" and intensity):
        return
    low, high = pixels.min(), pixels.max()
    if dtype.kind == "f" and 0 <= low and high <= 1:
        mend = ": np.round(255 * image).astype(np.uint8)"
    elif dtype.kind in "iuf" and 0 <= low and high <= 255:
        mend = ": np.round(image).astype(np.uint8)"
    else:
        mend = ", scaled so that black is 0 and white is 255"
    raise DataError(f"{what} with values from {low} to {high}; give uint8{mend}")


def _warn_of_mode(image: Image.Image):
    if image.mode in ("RGBA", "LA", "PA"):
        _warn("image with transparency: what is transparent becomes black")
    elif image.mode in ("1", "L"):
        _warn("grey image: its values are taken for red, green and blue")


def _warn(message: str):
    warnings.warn(message, stacklevel=3)


def read_header(path: str) -> Header:
    """What an image file says of itself; one without its last bytes is decoded to see what is lost.

    Raises:
      DataError: the file is no image, or a broken one.
    """
    try:
        with open(path, "rb") as file:
            image = _open(file)
            stored, exif = (image.height, image.width), Image.Exif()
            if "exif" in image.info:  # `image.getexif()` would decode a whole PNG to look for it.
                exif.load(image.info["exif"])
            turned = exif.get(_ORIENTATION, 1) >= 5  # Orientations 5–8 swap the sides.
            header = Header(stored[::-1] if turned else stored, stored, _mode(image))
            ending = _LAST_BYTES.get(image.format or "", b"")
            file.seek(-min(len(ending), 8), io.SEEK_END)
            if file.read() != ending:  # Cut off, or with something appended, which does no harm.
                file.seek(0)
                _open(file).load()
            return header
    except _UNREADABLE as error:
        raise DataError(f"not a readable image: {error}") from error


def image_size(path: str) -> tuple[int, int]:
    """(height, width) from an image file's header, EXIF orientation applied.

    Raises:
      DataError: the file is no image, or a broken one.
    """
    return read_header(path).size


def measure_intensity(paths: Sequence[str]) -> Intensity:
    """(low, high) of the values in 16-bit or float images: one range for all of a set.

    It is the type's own (0 to 65535, 0 to 255 or 0 to 1) where half of that is used, else the
    0.1 and 99.9 percentiles over a sample of the files; () if none can be read.
    """
    values = [_sample(path) for path in paths[:: max(1, len(paths) // _SAMPLED_FILES)]]
    pooled = np.concatenate([np.zeros(0), *values])
    if not len(pooled):
        return ()
    low, high = (float(value) for value in np.percentile(pooled, _PERCENTILES))
    for top in (1.0, 255.0, 65535.0):
        if 0 <= low and top / 2 < high - low and pooled.max() <= top:
            return (0.0, top)
    return (low, max(high, low + 1e-6))


def _sample(path: str) -> np.ndarray:
    """Some of a file's values, none if it can't be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        values = _deep_values(_open(io.BytesIO(data)), data).reshape(-1)
    except (*_UNREADABLE, DataError):
        return np.zeros(0)
    values = values[np.isfinite(values)]
    return values[:: max(1, len(values) // _SAMPLED_PIXELS)]


def _open(file: io.BufferedIOBase) -> Image.Image:
    """The image, not yet decoded.

    Raises:
      DataError: it is none; says what it may be instead.
    """
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(32)
    if not start:
        raise DataError("the file is empty")
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return _open_heic(file)
    text = start.decode("ascii", "replace").replace("\ufffd", "·")
    shown = "".join(letter if letter.isprintable() else "·" for letter in text[:16])
    raise DataError(f"not an image of a known kind: it begins with '{shown}'")


def _open_heic(file: io.BufferedIOBase) -> Image.Image:
    try:
        import pillow_heif  # Only such files need it.
    except ImportError:
        raise DataError("a HEIC image: pip install pillow-heif, or convert it to JPEG") from None
    pillow_heif.register_heif_opener()
    file.seek(0)
    return Image.open(file)


def _mode(image: Image.Image) -> str:
    """Pillow's mode; 'RGB;16' for 16-bit colour, which Pillow would cut to its upper 8 bits."""
    layout = str(image.tile[0].args) if image.tile else ""
    return "RGB;16" if image.mode.startswith("RGB") and ";16" in layout else image.mode


def _is_deep(mode: str) -> bool:
    return mode.startswith("I") or mode in ("F", "RGB;16")


def _deep_values(image: Image.Image, data: bytes) -> np.ndarray:
    """[H, W] or [H, W, 3] float64 values as they are in the file."""
    if not image.mode.startswith("RGB"):
        return np.asarray(image).astype(np.float64)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise DataError("not a readable image: 16-bit colour of an unknown layout")
    return found[..., 2::-1].astype(np.float64)  # Of blue, green, red and perhaps alpha.


def _to_8_bit(image: Image.Image, data: bytes, intensity: Intensity) -> Image.Image:
    low, high = intensity or (0.0, 1.0 if image.mode == "F" else 65535.0)
    found = Image.fromarray(_scaled(_deep_values(image, data), low, high))
    found.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return found


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float64 values as uint8, `low` as 0 and `high` as 255."""
    scaled = np.round((values - low) * (255.0 / (high - low)))
    return np.clip(np.nan_to_num(scaled, posinf=255.0, neginf=0.0), 0, 255).astype(np.uint8)


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) == 1


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The same pixels in half of Pillow's time; None if the file has no end: OpenCV would make one up."""
    if not data.endswith(_LAST_BYTES["JPEG"]):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(image.convert("RGB"))
