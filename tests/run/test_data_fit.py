import numpy as np
import pytest

from effdet_jax.config import ConfigError
from effdet_jax.run.data_fit import DataFit
from effdet_jax.spec import model_spec
from tests.doubles import Truths, row

# 20 images: ten cats each in 19, twelve cats and a dog in one; no cow.
IMAGES = [[row(0)] * 10 for _ in range(19)] + [[row(0)] * 12 + [row(1)]]
SOURCE = Truths(IMAGES, ("cat", "dog", "cow"))
SHAPES = Truths([[row(0)]] * 300, endless=True)


def test_slots_are_as_many_as_the_data_need():
    fit = DataFit(SOURCE)
    assert fit.max_boxes == 16 and fit.repeats is None and fit.class_weights is None
    (text,) = fit.lines(None)
    assert text.splitlines() == [
        "boxes      cat 202, dog 1; at most 13 in an image: 16 slots",
        "           warning: fewer than 10 boxes of dog 1",
    ]


def test_fewer_slots_cost_boxes_and_say_so():
    fit = DataFit(SOURCE, 11)
    assert fit.max_boxes == 11
    assert (
        "1 images have more boxes than the 11 of --config.data.max_boxes: 2 boxes at a time"
        in fit.lines(None)[0]
    )


def test_data_that_are_not_asked_decide_nothing():
    fit = DataFit(None, 0, 0.1, "auto")
    assert (fit.max_boxes, fit.repeats, fit.class_weights) == (100, None, None)
    assert fit.fit_anchors(model_spec("efficientdet-d0")) is None
    assert DataFit(None, 7).max_boxes == 7


def test_boxes_known_only_as_they_are_read():
    fit = DataFit(SHAPES)
    assert fit.max_boxes == 100
    assert fit.lines(None) == [
        "boxes      100 slots per image: their numbers are known only as they are read"
    ]
    with pytest.raises(ConfigError, match="data.balance=0.1 needs the classes of all boxes"):
        DataFit(SHAPES, balance=0.1).repeats  # noqa: B018 (made when asked for)
    with pytest.raises(ConfigError, match="loss.class_weights=auto needs the classes"):
        DataFit(SHAPES, asked_weights="auto").lines(None)
    assert DataFit(SHAPES, asked_weights="dog:2").class_weights == (1.0, 2.0)


def test_balance_and_weights_are_printed():
    # f(dog) = 1/20, √(0.2 · 20) = 2: the image of the dog twice, 21 in all.
    fit = DataFit(SOURCE, balance=0.2, asked_weights="cow:3")
    np.testing.assert_allclose(fit.repeats, [1.0] * 19 + [2.0])
    text = fit.lines(None)
    # 12 of 202 cats are shown twice: 214/202 = 1.06.
    assert text[1] == (
        "balance    20 images are shown 21 times in a round; boxes of dog ×2, cat ×1.1, cow ×0"
    )
    assert text[2] == "weighting  cat ×1, dog ×1, cow ×3"


def test_weights_of_no_class_are_a_config_error():
    with pytest.raises(ConfigError, match="loss.class_weights: 'cut:3' isn't a class"):
        DataFit(SOURCE, asked_weights="cut:3").class_weights  # noqa: B018


def test_anchors_that_do_not_fit_have_a_line():
    # 17 px at 512 px, of 100×200 px images enlarged 2.56 times: 6.6 px.
    boxes = [
        row(0, (top, left, top + 6.6, left + 6.6))
        for top in range(0, 90, 9)
        for left in range(0, 190, 9)
    ]
    fit = DataFit(Truths([boxes]))
    anchors = fit.fit_anchors(model_spec("efficientdet-d0"))
    (line,) = [line for line in fit.lines(anchors) if line.startswith("anchors")]
    assert line.startswith("anchors    100 % of boxes reach no anchor at scale 4; ")
    assert line.endswith("--config.model.anchor_scale=2")
