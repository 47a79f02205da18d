import numpy as np

from effdet_jax.data.shapes import NAMES, Shapes


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
    assert len(source.labels) == len(NAMES) >= 6
    assert set(labels) == set(range(len(NAMES)))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 128).all()
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert sides.min() > 3 and sides.min() < 10 and sides.max() > 50
    assert any(len(source[i].truth.boxes) == 0 for i in range(150)) or len(boxes) > 300


def test_boxes_are_exact():
    """Where a scene has one object, its pixels differ from the ground only within its box."""
    source = Shapes((96, 96), 400)
    lone = next(e for e in map(source.__getitem__, range(400)) if len(e.truth.boxes) == 1)
    top, left, bottom, right = lone.truth.boxes[0].astype(int)
    assert lone.truth.area[0] <= (bottom - top) * (right - left)
    assert [truth.image_id for truth in Shapes((64, 64), 3).ground_truth()] == [0, 1, 2]
