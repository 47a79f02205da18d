import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet_jax.data.example import DataError
from effdet_jax.data.images import decode_image, image_size

RED_TOP = np.zeros((4, 6, 3), np.uint8)
RED_TOP[:2] = (250, 10, 20)


def encoded(image: Image.Image, form="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_png_is_read_exactly():
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(RED_TOP))), RED_TOP)


def test_grayscale_becomes_three_channels():
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    found = decode_image(encoded(Image.fromarray(gray)))
    np.testing.assert_array_equal(found, np.repeat(gray[..., None], 3, 2))


def test_16_bit_is_scaled_not_clipped():
    values = np.array([[0, 257, 65535], [32896, 514, 128 * 257]], np.uint16)
    found = decode_image(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(found[..., 0], [[0, 1, 255], [128, 2, 128]])


def test_transparent_pixels_become_black():
    rgba = np.full((2, 2, 4), 200, np.uint8)
    rgba[..., 3] = [[255, 0], [0, 255]]
    found = decode_image(encoded(Image.fromarray(rgba)))
    np.testing.assert_array_equal(found[..., 0], [[200, 0], [0, 200]])


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "LA"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(RED_TOP).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(image, form)).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, RED_TOP),
        (3, RED_TOP[::-1, ::-1]),
        (6, RED_TOP.transpose(1, 0, 2)[:, ::-1]),  # stored lying on its side
        (8, RED_TOP.transpose(1, 0, 2)[::-1]),
    ],
)
def test_exif_orientation_is_applied(orientation, turned, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RED_TOP), exif=exif)
    np.testing.assert_array_equal(decode_image(data), turned)
    path = tmp_path / "image.png"
    path.write_bytes(data)
    assert image_size(str(path)) == turned.shape[:2]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_what_pillow_makes_of_it(mode, orientation, rng):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.fromarray(rng.integers(0, 256, (37, 50, 3)).astype(np.uint8))
    data = encoded(noise.convert(mode), "JPEG", exif=exif)
    pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode_image(data), np.asarray(pillow))
    np.testing.assert_array_equal(decode_image(data + b"more"), np.asarray(pillow))


def test_annotations_of_the_stored_size_keep_the_image_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(RED_TOP), exif=exif)
    np.testing.assert_array_equal(decode_image(data, size=(4, 6)), RED_TOP)
    assert decode_image(data, size=(6, 4)).shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<html><body>none", "not an image of a known kind: it begins with '<html><body>none'"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC image: pip install pillow-heif"),
        (
            encoded(Image.fromarray(RED_TOP.repeat(40, 0).repeat(40, 1)), "JPEG")[:-900],
            "(?i)truncated",
        ),
    ],
)
def test_broken_files_say_so(data, message):
    with pytest.raises(DataError, match=message):
        decode_image(data)
