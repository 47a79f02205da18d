import cv2
import numpy as np

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.data import synthetic as shapes
from effdet_jax.data.synthetic import NAMES, Shapes


def test_scenes_are_deterministic_and_differ():
    first, again = Shapes((96, 128), 10, seed=3), Shapes((96, 128), 10, seed=3)
    np.testing.assert_array_equal(first[4].image, again[4].image)
    np.testing.assert_array_equal(first[4].truth.boxes, again[4].truth.boxes)
    assert (first[4].image != first[5].image).any()
    assert (first[4].image != Shapes((96, 128), 10, seed=4)[4].image).any()


def test_scenes_never_end():
    source = Shapes((64, 64), 10, endless=True)
    assert len(source) == 10 and source[10**9].image.shape == (64, 64, 3)


def test_boxes_are_inside_and_every_class_and_many_sizes_occur():
    source = Shapes((128, 128), 150)
    boxes = np.concatenate([source[i].truth.boxes for i in range(150)])
    labels = np.concatenate([source[i].truth.labels for i in range(150)])
    assert len(source.class_names) == len(NAMES) >= 6
    assert set(labels) == set(range(len(NAMES)))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 128).all()
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert sides.min() > 8 and sides.max() > 60 and sides.max() > 4 * sides.min()
    assert 3 < len(boxes) / 150 < 8


def test_boxes_are_exact(monkeypatch):
    """On plain ground, the pixels that aren't the ground's span the box."""
    monkeypatch.setattr(shapes, "_background", lambda rng, size: np.full((*size, 3), 128.0, "f4"))
    monkeypatch.setattr(shapes, "_draw_clutter", lambda rng, image: None)
    source = Shapes((96, 96), 200)
    examples = [source[index] for index in range(200)]
    lone = [example for example in examples if len(example.truth.boxes) == 1]
    assert len(lone) >= 5
    for example in lone:
        # The noise is averaged out along the other axis and over colours.
        distance = np.linalg.norm(cv2.blur(example.image.astype("f4") - 128, (3, 3)), axis=-1)
        top, left, bottom, right = example.truth.boxes[0].astype(int)
        inside = np.median(distance[distance > 20]) / 2
        rows, columns = np.nonzero(distance > inside)
        found = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        np.testing.assert_allclose(found, (top, left, bottom, right), atol=2)


def test_ground_truth_comes_in_order():
    assert [truth.image_id for truth in Shapes((64, 64), 3).ground_truth()] == [0, 1, 2]


def test_scenes_may_show_one_shape_alone():
    counts = [len(Shapes((64, 64), 20, most=1)[index].truth.labels) for index in range(20)]
    assert set(counts) <= {0, 1} and sum(counts) > 15


def test_masks_show_the_labelled_shapes_and_the_scenes_stay_the_same():
    plain, source = Shapes((96, 96), 20), Shapes((96, 96), 20, masks=True)
    ignored = 0
    for index in range(20):
        example = source[index]
        np.testing.assert_array_equal(example.image, plain[index].image)
        assert plain[index].mask is None and example.mask.shape == (96, 96)
        shown = set(np.unique(example.mask)) - {0, IGNORED_PIXEL}
        assert shown == set(example.truth.labels + 1)
        for label in shown:
            boxes = example.truth.boxes[example.truth.labels + 1 == label].astype(int)
            inside = np.zeros((96, 96), bool)
            for top, left, bottom, right in boxes:
                inside[top:bottom, left:right] = True
            assert inside[example.mask == label].all()
            areas = example.truth.area[example.truth.labels + 1 == label]
            assert (example.mask == label).sum() == areas.sum()
        ignored += (example.mask == IGNORED_PIXEL).sum()
    assert ignored, "shapes without a label are seen somewhere"
