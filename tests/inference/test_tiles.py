import cv2
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.inference.tiles import Tiled, image_views
from tests.tiny import random_variables, tiny_spec


def padded(parts):
    """Detections [V, 6] from (box, score, label) rows of each view."""
    boxes, scores = np.zeros((len(parts), 6, 4), np.float32), np.zeros((len(parts), 6), np.float32)
    labels, valid = np.zeros((len(parts), 6), int), np.zeros((len(parts), 6), bool)
    for view, rows in enumerate(parts):
        for slot, (box, score, label) in enumerate(rows):
            boxes[view, slot], scores[view, slot], labels[view, slot] = box, score, label
            valid[view, slot] = True
    return ed.Detections(boxes, scores, labels, valid)


def merged(*parts, size=(100, 180), **options):
    """[(box, score, label)] of an image whose views are given: the whole, then tiles of 100."""
    image = np.zeros((*size, 3), np.uint8)
    (found,) = Tiled(lambda views: padded(parts), 100, 0.2, **options)([image])
    assert found.valid.all() and len(found.valid) == len(found.boxes)
    rows = zip(found.boxes.tolist(), found.scores, found.labels)
    return [(box, round(float(score), 4), int(label)) for box, score, label in rows]


def test_views_are_the_image_and_tiles_that_overlap_enough():
    assert image_views((100, 100), 100, 0.2).tolist() == [[0, 0, 100, 100]]
    # 180 = two tiles that share 20.
    expected = [[0, 0, 100, 180], [0, 0, 100, 100], [0, 80, 100, 180]]
    assert image_views((100, 180), 100, 0.2).tolist() == expected
    # A pixel more takes a third tile; a side of 60 has one tile of 60.
    lefts = image_views((60, 181), 100, 0.2)[1:, 1]
    assert lefts.tolist() == [0, 40, 81]  # 40.5 rounds to even.
    assert (image_views((60, 181), 100, 0.2)[1:, 2] == 60).all()
    assert len(image_views((3000, 4000), 768, 0.25)) == 1 + 5 * 7  # ⌈2232/576⌉+1, ⌈3232/576⌉+1.


def test_boxes_come_in_pixels_of_the_image_and_the_surer_of_two_stays():
    # The second tile begins at x = 80: [10, 20, 50, 60] there is [10, 100, 50, 140].
    # IoU with the whole image's [10, 100, 50, 130] is 1200/1600; of another class it stays.
    whole = [((10, 100, 50, 130), 0.6, 0), ((10, 100, 50, 130), 0.5, 1)]
    tile = [((10, 20, 50, 60), 0.8, 0)]
    assert merged(whole, [], tile) == [
        ([10, 100, 50, 140], 0.8, 0),
        ([10, 100, 50, 130], 0.5, 1),
    ]
    kept = merged(whole, [], tile, iou_threshold=0.76)
    assert [score for _, score, _ in kept] == [0.8, 0.6, 0.5]
    assert len(merged(whole, [], tile, max_detections=1)) == 1


def test_a_piece_goes_where_the_whole_object_was_seen():
    # x from 70 to 130 in the image; the first tile sees 70 to 100, at IoU 30/60 with the whole.
    piece = [((20, 70, 60, 100), 0.9, 0)]
    assert merged([((20, 70, 60, 130), 0.5, 0)], piece, []) == [([20, 70, 60, 130], 0.9, 0)]
    # Not for another class, nor for one that is less than half as certain.
    assert len(merged([((20, 70, 60, 130), 0.5, 1)], piece, [])) == 2
    assert len(merged([((20, 70, 60, 130), 0.4, 0)], piece, [])) == 2
    # At the image's own border nothing is cut: both stay, their IoU being 1/2.
    border = [((20, 0, 60, 30), 0.9, 0)]
    assert len(merged([((20, 0, 60, 60), 0.5, 0)], border, [])) == 2


def test_pieces_of_one_object_become_one():
    # x from 30 to 160: larger than the overlap, 80 to 100, where both show rows 20 to 60.
    first, second = ((20, 30, 60, 100), 0.6, 0), ((20, 0, 60, 80), 0.7, 0)
    assert merged([], [first], [second]) == [([20, 30, 60, 160], 0.7, 0)]
    # Rows 20–60 and 50–90 share 10 of 70: two objects. So are two classes.
    lower = ((50, 0, 90, 80), 0.7, 0)
    assert len(merged([], [first], [lower])) == 2
    assert len(merged([], [first], [(*second[:2], 1)])) == 2
    # A chain: 0 to 100 of three tiles at 0, 80 and 160.
    through = ((20, 0, 60, 100), 0.5, 0)
    last = ((20, 0, 60, 40), 0.6, 0)
    assert merged([], [first], [through], [last], size=(100, 260)) == [([20, 30, 60, 200], 0.6, 0)]
    # A piece alone is what was found, and stays.
    assert merged([], [first], []) == [([20, 30, 60, 100], 0.6, 0)]


def test_nothing_found_is_no_detection():
    assert merged([], [], []) == []


@pytest.mark.parametrize("options", [{"tile": 0}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_tiles_that_cant_be_laid_are_refused(options):
    with pytest.raises(ValueError, match=r"such as 0\.2"):
        Tiled(padded, **options)


def short_sighted(views):
    """Finds each rectangle by its colour, unless a side is below a 20th of the view's."""
    parts = []
    for view in views:
        rows = []
        for colour in np.unique(view[::8, ::8, 0]):
            mask = (view[..., 0] == colour).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(mask)
            if colour and min(width, height) >= max(view.shape[:2]) / 20:
                box = (top, left, top + height, left + width)
                rows.append((box, 0.5 + colour / 1000, int(colour) % 3))
        parts.append(rows)
    return padded(parts)


def test_on_a_large_image_every_object_is_found_once(rng):
    # 20 cells of 600×600 with a rectangle of 40 to 590 px each: the whole image, 3000 px, shows
    # only those above 150, a tile those above 20, cut where they are larger than the overlap, 80.
    image = np.zeros((2400, 3000, 3), np.uint8)
    expected = set()
    for number in range(20):
        height, width = np.exp(rng.uniform(np.log(40), np.log(590), 2)).astype(int)
        top, left = number // 5 * 600, number % 5 * 600
        top, left = top + rng.integers(600 - height), left + rng.integers(600 - width)
        image[top : top + height, left : left + width] = number + 1
        expected.add((top, left, top + height, left + width))
    (found,) = Tiled(short_sighted, 400, 0.2)([image])
    assert {tuple(box) for box in found.boxes.astype(int).tolist()} == expected
    assert len(found.boxes) == 20 and (np.diff(found.scores) <= 0).all()
    alone = short_sighted([image])
    assert alone.valid.sum() < 6


def test_with_a_model_small_images_are_as_without_tiles():
    model = ed.Detector(tiny_spec())
    predictor = ed.Predictor(
        model,
        random_variables(model),
        batch_size=4,
        max_detections=6,
        pre_nms_top_k=50,
        score_threshold=0.0,
    )
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 255, (*size, 3), np.uint8) for size in ((50, 60), (90, 200)))
    # 1 + 4 views: two batches of one shape.
    found = Tiled(predictor.detect, 64, 0.2)([large, small, large])
    alone = predictor.detect([small])[0]
    np.testing.assert_allclose(found[1].boxes, alone.boxes[alone.valid], atol=1e-3)
    np.testing.assert_array_equal(found[1].labels, alone.labels[alone.valid])
    np.testing.assert_allclose(found[0].boxes, found[2].boxes, atol=1e-3)
    assert len(found[0].boxes) > 6 and found[0].boxes[:, 3].max() > 128
    assert (found[0].boxes >= 0).all() and (found[0].boxes <= (90, 200, 90, 200)).all()
