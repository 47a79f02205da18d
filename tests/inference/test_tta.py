"""Of an image 64 high and 48 wide, padded to 64×64, with one white cell: rows 24–32, columns 16–24.

At level 3 the anchor of a cell is 24 px, so the plain view finds rows 16–40, columns 8–32. At twice
the size the cell is one of level 4, with the same anchor, and four of level 3, with half of it.
"""

import functools
import re

import jax
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.data.transforms import network_input
from effdet_jax.inference import predictor as predictors
from effdet_jax.inference.predictor import create_inference
from effdet_jax.inference.tta import TTA, TTAError
from tests.doubles import WhiteCells
from tests.tiny import tiny_spec

OBJECT = [16.0, 8.0, 40.0, 32.0]
QUARTERS = [[20.0 + y, 12.0 + x, 32.0 + y, 24.0 + x] for y in (0, 4) for x in (0, 4)]
OPTIONS = {"max_detections": 6, "pre_nms_top_k": 50, "score_threshold": 0.1}


def white_cells():
    return WhiteCells(tiny_spec(max_level=5, num_classes=1))


def picture():
    image = np.zeros((64, 48, 3), np.uint8)
    image[24:32, 16:24] = 255
    return image


def batch_at(size):
    return jax.tree.map(lambda array: array[None], network_input(picture(), size))


@functools.cache
def found(tta, **options):
    """{box: score} of the picture, and the plain outputs."""
    model = white_cells()
    batch = batch_at((64, 64))
    if tta and tta.scales:
        batch["scaled"] = tuple(batch_at(size) for size in tta.sizes(model.spec))
    run = jax.jit(create_inference(model, tta, **OPTIONS | options))
    detections, outputs = jax.device_get(run({}, batch))
    (one,) = (detections[0][detections[0].valid],)
    boxes = [tuple(box) for box in one.boxes.round(3).tolist()]
    assert len(set(boxes)) == len(boxes) and (np.diff(one.scores) <= 0).all()
    return dict(zip(boxes, one.scores)), outputs


def assert_found(result, expected):
    assert result.keys() == {tuple(box) for box, _ in expected}
    for box, score in expected:
        assert result[tuple(box)] == pytest.approx(score, abs=1e-3)


def test_the_plain_view():
    assert_found(found(None)[0], [(OBJECT, 1.0)])


def test_the_mirrored_view_sees_the_object_where_it_is():
    """It is one box only if both views have it in the same place."""
    assert_found(found(TTA(flip=True, fusion="nms"))[0], [(OBJECT, 1.0)])


def test_the_threshold_is_of_what_was_fused():
    """The quarters, which two of four views see, are half as certain; see the predictor's, too."""
    assert_found(found(TTA(flip=True, scales=(2.0,)), score_threshold=0.6)[0], [(OBJECT, 1.0)])


def test_by_nms_all_that_any_view_sees_counts_in_full():
    views = TTA(flip=True, scales=(2.0,), fusion="nms")
    assert_found(found(views)[0], [(box, 1.0) for box in [OBJECT, *QUARTERS]])
    # IoU of the object with a quarter is 1/4: they are the same to a lower threshold.
    best, _ = found(views, iou_threshold=0.2)
    assert len(best) == 1


def test_outputs_are_those_of_the_plain_view():
    views = TTA(flip=True, scales=(2.0,))
    several = found(views, score_threshold=0.6)[1]
    jax.tree.map(np.testing.assert_array_equal, several, found(None)[1])


def test_a_predictor_has_the_views_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(predictors, "fold_batch_norm", lambda *both: both)
    detect = ed.Predictor(white_cells(), {}, tta="flip,2", batch_size=2, **OPTIONS)
    for result in detect([picture()] * 3):
        assert_found(
            dict(zip(map(tuple, result.boxes.round(3).tolist()), result.scores)),
            [(OBJECT, 1.0), *((box, 0.5) for box in QUARTERS)],  # Which 2 of 4 views see.
        )
    assert detect.tta == TTA(flip=True, scales=(2.0,))
    with pytest.raises(TTAError, match="fusion 'nms' joins several views: --tta names them"):
        ed.Predictor(white_cells(), {}, fusion="nms")


def test_views_are_a_list():
    assert TTA.parse("") is None
    assert TTA.parse("flip") == TTA(flip=True)
    assert TTA.parse("0.75, flip,1,1.25", "nms") == TTA(True, (0.75, 1.25), "nms")
    assert TTA.parse("flip,0.75,1.25").num_views == 6 and TTA.parse("1.5").num_views == 2


@pytest.mark.parametrize(
    ("text", "fusion", "message"),
    [
        (
            "flop",
            None,
            "--tta=flop: 'flop' is neither flip nor a scale; such as --tta=flip,0.75,1.25",
        ),
        ("flip,", None, "--tta=flip,: '' is neither flip nor a scale"),
        ("flip,125", None, "--tta=flip,125: 125 isn't in 0.25 … 4, a factor of"),
        ("nan", None, "--tta=nan: nan isn't in 0.25 … 4"),
        ("flip", "mean", "fusion 'mean' is unknown; there are wbf, nms"),
        ("", "wbf", "fusion 'wbf' joins several views: --tta names them, such as"),
    ],
)
def test_what_is_no_list_of_views_is_refused(text, fusion, message):
    with pytest.raises(TTAError, match=re.escape(message)):
        TTA.parse(text, fusion)


@pytest.mark.parametrize("objective", ["classification", "segment", "retina+segment"])
def test_views_are_of_boxes_alone(objective):
    model = WhiteCells(tiny_spec(objective=objective))
    with pytest.raises(TTAError, match=re.escape(f"objective '{objective}' predicts other things")):
        create_inference(model, TTA(flip=True))


def test_sizes_are_multiples_of_the_largest_stride():
    spec = ed.model_spec("efficientdet-d0", image_size=(384, 512))  # Stride 128.
    views = TTA(True, (0.75, 1.25))  # 288 and 480, 384 and 640.
    assert views.sizes(spec) == ((256, 384), (512, 640))
    assert views.line(spec) == (
        "6 views of each image: 384×512, 256×384, 512×640 px, each also mirrored; joined by weighted "
        "box fusion"
    )
    assert TTA(scales=(0.25,)).sizes(spec) == ((128, 128),)
    with pytest.raises(TTAError, match="scales 1 and 1.1 of 384×512 px are the same view, 384×512"):
        TTA(scales=(1.1,)).sizes(spec)
    with pytest.raises(
        TTAError, match="scales 1.25 and 1.3 of .* multiples of 128, so give scales"
    ):
        TTA(scales=(1.25, 1.3)).sizes(spec)
