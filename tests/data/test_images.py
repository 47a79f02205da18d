import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet_jax.data.example import DataError
from effdet_jax.data.images import (
    convert_image,
    decode_image,
    image_size,
    measure_intensity,
    read_header,
    read_image,
)

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


def test_an_rgb_array_in_memory_is_given_back():
    assert convert_image(RED_TOP) is RED_TOP
    np.testing.assert_array_equal(convert_image(Image.fromarray(RED_TOP)), RED_TOP)


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray])
def test_grey_and_transparent_images_in_memory_are_as_their_files(kind, rng):
    grey = rng.integers(0, 256, (4, 6), dtype=np.uint8)
    with pytest.warns(UserWarning, match="grey image: its values are taken for red, green and"):
        found = convert_image(kind(grey))
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    rgba = rng.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    with pytest.warns(UserWarning, match="what is transparent becomes black"):
        found = convert_image(kind(rgba))
    np.testing.assert_array_equal(found, decode_image(encoded(Image.fromarray(rgba))))
    # Of half transparency half is left.
    np.testing.assert_allclose(found, rgba[..., :3] * (rgba[..., 3:] / 255), atol=1)


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray])
@pytest.mark.parametrize("intensity", [(), (1000.0, 3000.0)])
def test_16_bit_images_in_memory_are_as_their_files(kind, intensity):
    values = np.array([[0, 1000, 2000], [3000, 40000, 65535]], np.uint16)
    low, high = intensity or (0, 65535)
    with pytest.warns(UserWarning, match=f"uint16 image: {low:g} becomes 0 and {high:g} becomes"):
        found = convert_image(kind(values), intensity)
    expected = np.clip(np.round((values - np.float64(low)) / (high - low) * 255), 0, 255)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))
    file = decode_image(encoded(Image.fromarray(values)), intensity=intensity)
    np.testing.assert_array_equal(found, file)


def test_floats_in_memory_need_a_range():
    values = np.array([[-30.0, 10.0, 50.0]], np.float32)
    with pytest.warns(UserWarning, match="float32 image: -30 becomes 0 and 50 becomes 255"):
        found = convert_image(values, (-30.0, 50.0))
    assert found[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 6, 3), 0.5), r"float64 \(4, 6, 3\) .* 0.5 to 0.5; give uint8: np.round\(255"),
        (np.full((4, 6, 3), 99.0), r"from 99.0 to 99.0; give uint8: np.round\(image\)"),
        (np.full((4, 6, 3), -1.0), "give uint8, scaled so that black is 0 and white is 255"),
        (np.full((4, 6, 3), 7), r"int64 .*np.round\(image\)"),
        (np.zeros((3, 4, 6), np.uint8), r"channels come last: image.transpose\(1, 2, 0\)"),
        (np.zeros((4, 6, 2), np.uint8), r"is uint8 \(4, 6, 2\); it must be uint8 \[H, W, 3\] RGB$"),
        (np.zeros((4, 6, 4), np.uint16), r"is uint16 \(4, 6, 4\); it must be"),
        (np.zeros((0, 6, 3), np.uint8), r"\(0, 6, 3\); it must be"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"\(2, 4, 6, 3\); it must be"),
    ],
)
def test_what_is_no_image_in_memory(image, message):
    with pytest.raises(DataError, match=message):
        convert_image(image)


def test_a_picture_that_lies_on_its_side_is_left_so_with_a_word():
    image = Image.fromarray(RED_TOP)
    image.getexif()[0x0112] = 6
    with pytest.warns(UserWarning, match="ImageOps.exif_transpose"):
        assert convert_image(image).shape == RED_TOP.shape


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        read_image(str(tmp_path / "gone.png"))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        read_image(str(tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RED_TOP)))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), RED_TOP)
