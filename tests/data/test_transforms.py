import functools
import json

import numpy as np
import pytest

from effdet_jax.data import transforms
from tests.conftest import shared


def test_flips_are_their_own_inverse(rng):
    image = rng.integers(0, 255, (5, 8, 3)).astype(np.uint8)
    boxes = np.array([[1, 2, 3, 7]], np.float32)
    for flip in (transforms.flip_horizontally, transforms.flip_vertically):
        once = flip(image, boxes)
        np.testing.assert_array_equal(flip(*once)[0], image)
        np.testing.assert_array_equal(flip(*once)[1], boxes)


def test_flips_take_the_object_along():
    image = np.zeros((6, 10, 3), np.uint8)
    image[1:3, 2:7] = 255
    boxes = np.array([[1, 2, 3, 7]], np.float32)
    for flip in (transforms.flip_horizontally, transforms.flip_vertically):
        flipped, (box,) = flip(image, boxes)
        top, left, bottom, right = box.astype(int)
        assert flipped[top:bottom, left:right].all()
        assert flipped.sum() == image.sum()


@pytest.mark.parametrize(
    ("size", "output", "scaled"),
    [
        ((480, 640), (256, 256), (192, 256)),
        ((300, 427), (512, 512), (359, 511)),  # float32 cuts the long side one pixel short
        ((640, 480), (384, 640), (384, 288)),
        ((1, 1000), (128, 128), (1, 128)),  # never less than a pixel
    ],
)
def test_fit_keeps_the_aspect(size, output, scaled):
    placement = transforms.fit(size, output)
    assert (placement.scaled, placement.offset, placement.output) == (scaled, (0, 0), output)


def test_jitter_crops_inside_the_resized_image():
    placement = transforms.jitter((480, 640), (256, 256), 2.0, (0.5, 0.5))
    assert placement.scaled == (384, 512)
    assert placement.offset == (64, 128)
    small = transforms.jitter((480, 640), (256, 256), 0.1, (0.9, 0.9))
    assert small.scaled == (18, 25) and small.offset == (0, 0)


def test_boxes_follow_the_pixels():
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:24, 16:48] = 255
    box = np.array([[8, 16, 24, 48]], np.float32)
    for placement in (
        transforms.fit((48, 64), (96, 96)),
        transforms.jitter((48, 64), (64, 64), 1.7, (0.3, 0.4)),
    ):
        canvas, _ = transforms.letterbox(image, placement)
        (moved,), inside = transforms.letterbox_boxes(box, (48, 64), placement)
        rows, columns = np.nonzero(canvas[..., 0] > 127)
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert inside.all()
        np.testing.assert_allclose(moved, found, atol=1.01)


def test_image_scale_maps_the_canvas_back():
    assert transforms.image_scale((480, 640), (256, 256)) == 2.5
    assert transforms.image_scale((100, 50), (200, 200)) == 0.5


def test_boxes_cropped_away_are_marked():
    placement = transforms.Placement(scaled=(100, 100), offset=(50, 50), output=(50, 50))
    boxes = np.array([[0, 0, 40, 40], [40, 40, 60, 60], [60, 60, 99, 99]], np.float32)
    moved, inside = transforms.letterbox_boxes(boxes, (100, 100), placement)
    assert inside.tolist() == [False, True, True]
    np.testing.assert_allclose(moved[1], [0, 0, 10, 10], atol=1e-4)
    np.testing.assert_allclose(moved[2], [10, 10, 49, 49], atol=1e-4)  # cut at side - 1


def test_colour_jitter_stays_in_range_and_at_zero_is_the_identity(rng):
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(transforms.jitter_colour(image, 0.0, rng), image)
    changed = transforms.jitter_colour(image, 0.9, rng)
    assert changed.dtype == np.uint8 and (changed != image).any()


@functools.cache
def official():
    with np.load(shared("goldens/automl_misc/preprocess.npz")) as file:
        arrays = {name: file[name] for name in file if name.startswith("img")}
    return json.loads(shared("goldens/automl_misc/misc.json").read_text())["preprocess"], arrays


@pytest.mark.parametrize("number", [0, 1, 2])
def test_equal_to_the_official_preprocessing(number):
    """Three COCO images: evaluation, fixed jitter, flip, other target size, Lite, AdvProp."""
    parameters, arrays = official()
    original = arrays[f"img{number}/uint8_pil"]
    size = original.shape[:2]
    boxes_original = arrays[f"img{number}/boxes_norm"] * np.array([*size, *size], np.float32)
    cases = parameters[number]["cases"]
    assert len(cases) >= 4
    for name, case in cases.items():
        image, boxes = original, boxes_original
        if case["flipped"]:
            image, boxes = transforms.flip_horizontally(image, boxes)
        output = tuple(case["output_size"])
        placement = transforms.fit(size, output)
        if case["jitter_scale"] is not None:
            target = tuple(case["target_size"] or output)
            scaled = transforms.jitter(size, target, case["jitter_scale"], (0.0, 0.0)).scaled
            offset = (case["offset_y"], case["offset_x"])
            placement = transforms.Placement(scaled, offset, output)
        assert placement.scaled == (case["scaled_h"], case["scaled_w"]), name

        canvas, content = transforms.letterbox(np.ascontiguousarray(image), placement)
        # In grey levels: the official images are resized as floats, ours rounded to uint8.
        mean, std = (127.5, 127.5) if case["scale_range"] else (case["mean"], case["std"])
        expected = arrays[f"img{number}/{name}/image"] * np.float32(std) + np.float32(mean)
        expected = expected[: content[0], : content[1]]
        difference = np.abs(canvas[: content[0], : content[1]] - expected)
        assert difference.max() < 0.8 and difference.mean() < 0.3, name
        assert not canvas[content[0] :].any() and not canvas[:, content[1] :].any()

        moved, inside = transforms.letterbox_boxes(boxes, size, placement)
        np.testing.assert_allclose(
            moved[inside], arrays[f"img{number}/{name}/boxes"], atol=1e-4, err_msg=name
        )


def test_boxes_are_cut_to_the_last_pixel_of_the_canvas():
    boxes = np.array([[-3, -4, 50, 60], [5, 6, 7, 8], [30, 1, 40, 9]], np.float32)
    cut, inside = transforms.cut_boxes(boxes, (30, 40))
    np.testing.assert_array_equal(cut, [[0, 0, 29, 39], [5, 6, 7, 8], [29, 1, 29, 9]])
    assert inside.tolist() == [True, True, False]


def test_what_a_network_needs_of_an_image():
    found = transforms.network_input(np.full((20, 30, 3), 7, np.uint8), (32, 32))
    assert found["image"].shape == (32, 32, 3) and found["content"].tolist() == [21, 32]
    assert found["size"].tolist() == [20, 30] and found["scale"] == pytest.approx(30 / 32)
    assert (found["image"][:21] == 7).all() and not found["image"][21:].any()
    # Cut to the middle, nothing is padded.
    cut = transforms.network_input(np.full((20, 30, 3), 7, np.uint8), (32, 32), 1.0)
    assert cut["content"].tolist() == [32, 32] and (cut["image"] == 7).all()


def test_the_middle_of_an_image_fills_the_canvas():
    # Of 480×640 the largest square is 480; 7/8 of it, 420, becomes 224: all is scaled by 8/15.
    placement = transforms.place((480, 640), (224, 224), 0.875)
    assert placement.scaled == (256, 341) and placement.offset == (16, 58)
    assert transforms.place((480, 640), (256, 256)) == transforms.fit((480, 640), (256, 256))
    # A canvas of another aspect; and an image too small is scaled up.
    assert transforms.place((100, 400), (50, 100), 1.0).scaled == (50, 200)
    assert transforms.place((3, 9), (64, 64), 1.0).scaled == (64, 192)


def test_random_crops_fill_the_canvas_with_parts_of_the_image(rng):
    shares = []
    for _ in range(200):
        placement = transforms.random_crop((90, 120), (32, 48), 0.25, rng)
        ends = [start + side for start, side in zip(placement.offset, placement.output)]
        assert all(end <= full for end, full in zip(ends, placement.scaled))
        rows, columns = (
            full * side / scaled
            for full, side, scaled in zip((90, 120), placement.output, placement.scaled)
        )
        assert 0.73 < columns / rows / 1.5 < 1.37
        shares.append(rows * columns / (90 * 120))
    assert 0.24 < min(shares) < 0.35 and 0.8 < max(shares) < 1.02


def test_a_crop_that_never_fits_is_the_middle(rng):
    # All of the area of a strip, in no aspect near a square's.
    assert transforms.random_crop((10, 400), (32, 32), 1.0, rng) == transforms.place(
        (10, 400), (32, 32), 1.0
    )
