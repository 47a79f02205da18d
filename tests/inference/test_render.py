import numpy as np

from effdet_jax.classes import ClassNames
from effdet_jax.detection.postprocess import Detections
from effdet_jax.inference.render import draw_boxes, grid, render

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


def test_a_name_at_the_border_stays_inside():
    drawn = draw_boxes(BLACK, np.array([[0.0, 0.0, 119.0, 159.0]]), np.array([0]), LABELS)
    colour = np.array(drawn[-2, 60])  # Of the frame, and of the ground its name is written on.
    assert (drawn[3:9, 3:16] == colour).all(-1).mean() > 0.3


def test_without_labels_and_without_boxes():
    assert draw_boxes(BLACK, np.array([[9.0, 9.0, 60.0, 60.0]]), np.array([3])).any()
    assert not draw_boxes(BLACK, np.zeros((0, 4)), np.zeros(0, int), LABELS).any()


def test_a_grid_holds_every_picture():
    pictures = [np.full((20, 30, 3), level, np.uint8) for level in (50, 100, 150)]
    canvas = grid([*pictures, np.full((10, 60, 3), 200, np.uint8), pictures[0]])
    assert canvas.shape == (40, 90, 3)
    assert canvas[10, 45, 0] == 100 and canvas[30, 5, 0] == 0  # 60×10 becomes 30×5 at its top.
    assert canvas[22, 5, 0] == 200 and not canvas[20:, 60:].any()
