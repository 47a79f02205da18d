import numpy as np
import pytest
from PIL import Image, ImageColor

from effdet_jax.classes import ClassNames
from effdet_jax.detection.postprocess import Detections
from effdet_jax.inference.render import COLOURS, draw_boxes, draw_mask, grid, render, save_mask

LABELS = ClassNames(("cat", "dog"), (5, 9))
BLACK = np.zeros((120, 160, 3), np.uint8)


def one_box(box=(40, 30, 90, 130), score=0.8):
    return Detections(
        np.array([box, box], np.float32),
        np.array([score, 0.99]),
        np.array([1, 0]),
        np.array([True, False]),
    )


def test_a_box_is_drawn_on_its_pixels_and_the_image_left_as_it_was():
    drawn = render(BLACK, one_box(), LABELS)
    rows, columns = np.nonzero(drawn[45:].any(-1))  # Below the name.
    assert (rows.max() + 45, columns.min(), columns.max()) == (89, 30, 129)  # Half-open.
    assert not BLACK.any() and not drawn[60:80, 50:110].any()


def test_uncertain_and_invalid_ones_are_not_drawn():
    assert not render(BLACK, one_box(score=0.2), LABELS).any()
    assert render(BLACK, one_box(score=0.2), LABELS, score_threshold=0.1).any()


@pytest.mark.parametrize("side", [64, 128, 512, 2000])
@pytest.mark.parametrize("where", ["middle", "corner", "whole"])
def test_the_ground_lies_around_the_name(side, where):
    image = np.full((side, side, 3), 90, np.uint8)
    box = {
        "middle": (side * 0.4, side * 0.2, side * 0.8, side * 0.7),
        "corner": (0, side * 0.8, side * 0.2, side),
        "whole": (0, 0, side, side),
    }[where]
    boxes, classes = np.array([box]), np.array([0])
    named = draw_boxes(image, boxes, classes, LABELS, np.array([0.87]))
    assert named.shape == image.shape
    dark = named[..., 0] < 60  # The letters, as nothing else is.
    (top, left), (bottom, right) = np.argwhere(dark).min(0), np.argwhere(dark).max(0)
    assert bottom - top >= max(5, side / 70) and right - left > 3 * (bottom - top)
    # Inside the image, and all of a line around the letters is ground.
    assert min(top, left) > 0 and max(bottom, right) < side - 1
    around = (named != image).any(-1)[top - 1 : bottom + 2, left - 1 : right + 2]
    assert all(edge.all() for edge in (around[0], around[-1], around[:, 0], around[:, -1]))


def test_names_on_a_small_image_hide_no_box():
    image = np.zeros((128, 128, 3), np.uint8)
    boxes = np.array([(20, 10, 60, 50), (34, 30, 80, 120), (90, 5, 126, 60), (0, 80, 30, 128)])
    classes, scores = np.array([0, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6])
    drawn = draw_boxes(image, boxes, classes, LABELS, scores)
    frames = hidden = 0
    for (top, left, bottom, right), label in zip(boxes, classes):
        colour = ImageColor.getrgb(COLOURS[label])
        edges = [drawn[y, left:right] for y in (top, bottom - 1)]
        edges += [drawn[top:bottom, x] for x in (left, right - 1)]
        for edge in edges:
            frames += len(edge)
            hidden += np.sum((edge != colour).any(-1))
    assert hidden < 0.05 * frames


def test_a_name_is_one_line_no_wider_than_the_image():
    box, cat = np.array([[40.0, 10.0, 90.0, 60.0]]), np.array([0])
    lines = draw_boxes(BLACK, box, cat, ClassNames(("big\n\tcat\n",), (1,)), np.array([0.5]))
    one = draw_boxes(BLACK, box, cat, ClassNames(("big cat",), (1,)), np.array([0.5]))
    np.testing.assert_array_equal(lines, one)
    long = [
        draw_boxes(BLACK, box, cat, ClassNames(("m" * length,), (1,)), np.array([0.5]))
        for length in (30, 300, 3000)
    ]
    np.testing.assert_array_equal(long[0], long[1])
    np.testing.assert_array_equal(long[1], long[2])


def test_a_small_image_is_enlarged_if_asked():
    image = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    nothing = np.zeros((0, 4)), np.zeros(0, int)
    four = draw_boxes(image, *nothing, least_side=200)  # The least whole factor: 240×320.
    np.testing.assert_array_equal(four, image.repeat(4, axis=0).repeat(4, axis=1))
    np.testing.assert_array_equal(draw_boxes(image, *nothing, least_side=60), image)
    drawn = render(np.zeros_like(image), one_box((20, 10, 50, 70)), LABELS, least_side=200)
    rows, columns = np.nonzero(drawn[100:].any(-1))
    assert (rows.max() + 100, columns.min(), columns.max()) == (199, 40, 279)


def test_without_labels_and_without_boxes():
    assert draw_boxes(BLACK, np.array([[9.0, 9.0, 60.0, 60.0]]), np.array([3])).any()
    assert not draw_boxes(BLACK, np.zeros((0, 4)), np.zeros(0, int), LABELS).any()


def test_a_grid_holds_every_picture():
    pictures = [np.full((20, 30, 3), level, np.uint8) for level in (50, 100, 150)]
    canvas = grid([*pictures, np.full((10, 60, 3), 200, np.uint8), pictures[0]])
    assert canvas.shape == (40, 90, 3)
    assert canvas[10, 45, 0] == 100 and canvas[30, 5, 0] == 0  # 60×10 becomes 30×5 at its top.
    assert canvas[22, 5, 0] == 200 and not canvas[20:, 60:].any()


def test_a_mask_tints_its_classes_and_leaves_the_rest():
    image, mask = np.full((60, 80, 3), 100, np.uint8), np.zeros((60, 80), np.uint8)
    mask[40:, :20], mask[40:, 60:] = 1, 255
    drawn = draw_mask(image, mask, ClassNames(("cat", "dog"), (1, 2)))
    expected = (100 + np.array(ImageColor.getrgb(COLOURS[0]))) // 2
    assert np.abs(drawn[40:, :20].astype(int) - expected).max() <= 1
    assert (drawn[40:, 20:] == 100).all() and (drawn[:20, :20] != 100).any(), "its name is there"
    assert (image == 100).all()


def test_a_mask_file_has_its_values(tmp_path):
    mask = np.array([[0, 1, 254]], np.uint8)
    save_mask(mask, str(tmp_path / "mask.png"))
    with Image.open(tmp_path / "mask.png") as saved:
        assert saved.mode == "P"
        np.testing.assert_array_equal(np.asarray(saved), mask)
        assert saved.convert("RGB").getpixel((1, 0)) == ImageColor.getrgb(COLOURS[0])
