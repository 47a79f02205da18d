import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet_jax.data.example import DataError
from effdet_jax.data.images import decode_image, image_size, measure_intensity, read_header

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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(51241, 52181, 4800).astype(np.uint16), (51241, 52180)),  # A thermal camera.
        (np.linspace(0, 65535, 4800).astype(np.uint16), (0, 65535)),
        (np.linspace(0, 1, 4800).astype(np.float32), (0, 1)),
        (np.linspace(-30, 50, 4800).astype(np.float32), (-30, 50)),
    ],
)
def test_a_set_of_deep_images_has_one_range(values, expected, tmp_path):
    paths = [tmp_path / "0.tif", tmp_path / "1.tif"]
    for path, part in zip(paths, values.reshape(2, 40, 60)):
        Image.fromarray(part).save(path)
    low, high = measure_intensity([str(path) for path in paths])
    assert (low, high) == pytest.approx(expected, abs=0.002 * (expected[1] - expected[0]))
    first, last = (decode_image(path.read_bytes(), intensity=(low, high)) for path in paths)
    assert (first.min(), last.max()) == (0, 255) and first.shape == (40, 60, 3)
    assert len(np.unique(first)) > 100  # Not a few grey levels.


def test_one_brighter_pixel_changes_nothing_else():
    dim = np.tile(np.arange(250, dtype=np.uint16), (8, 1))
    bright = dim.copy()
    bright[0, 0] = 300
    one, other = (
        decode_image(encoded(Image.fromarray(values)), intensity=(0.0, 300.0))
        for values in (dim, bright)
    )
    assert (one != other).any(2).sum() == 1


def test_16_bit_colour_keeps_what_lies_in_its_lower_bits(tmp_path):
    values = np.zeros((4, 6, 3), np.uint16)
    values[..., 0], values[:2, :, 2] = 4095, 2048  # Blue and red of a 12-bit camera.
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, values)
    assert read_header(path).deep
    found = decode_image((tmp_path / "a.png").read_bytes(), intensity=(0.0, 4095.0))
    assert found[0, 0].tolist() == [128, 0, 255] and found[3, 0].tolist() == [0, 0, 255]


def test_no_deep_images_have_no_range(tmp_path):
    assert measure_intensity([str(tmp_path / "none.png")]) == measure_intensity([]) == ()


def test_images_of_any_number_of_pixels_are_read_without_a_warning(tmp_path, recwarn, monkeypatch):
    assert Image.MAX_IMAGE_PIXELS is None  # Pillow warns above it and refuses twice as many.
    path = tmp_path / "long.png"
    Image.new("L", (200_000, 1000)).save(path, compress_level=1)
    assert read_header(str(path)).size == (1000, 200_000) and not recwarn.list


def test_a_file_without_its_last_bytes_is_found_by_its_header(tmp_path, rng):
    noise = Image.fromarray(rng.integers(0, 256, (37, 50, 3)).astype(np.uint8))
    for form in ("JPEG", "PNG"):
        data = encoded(noise, form)
        path = tmp_path / "image"
        path.write_bytes(data + b"appended")
        assert read_header(str(path)).size == (37, 50)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match="not a readable image"):
            read_header(str(path))


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
