import functools
import re

import jax
import numpy as np
import pytest
from PIL import Image

import effdet_jax as ed
from effdet_jax.data.example import DataError
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.inference import predictor as predictors
from effdet_jax.inference.predictor import create_detect
from tests.doubles import Images
from tests.tiny import random_variables, tiny_spec


@functools.cache
def tiny():
    spec = tiny_spec(image_size=(128, 192), num_classes=3)
    model = ed.Detector(spec, ed.ClassNames(("a", "b", "c"), (1, 2, 3)))
    return model, random_variables(model)


@functools.cache
def predictor():
    options = {"max_detections": 20, "pre_nms_top_k": 200}
    return ed.Predictor(*tiny(), batch_size=2, score_threshold=0.0, **options)


def picture(seed, height, width):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_images_of_different_sizes_give_boxes_in_their_own_pixels():
    images = [picture(0, 30, 50), picture(1, 200, 90), picture(2, 128, 192)]
    found = predictor()(images)
    assert [one.image_size for one in found] == [(30, 50), (200, 90), (128, 192)]
    for one in found:
        assert len(one) and one.boxes.shape == (len(one), 4) and isinstance(one.boxes, np.ndarray)
        assert (one.boxes >= 0).all() and (one.boxes <= np.array([*one.image_size] * 2)).all()


def test_an_image_alone_is_the_same_as_among_others():
    images = [picture(seed, 70, 80) for seed in range(3)]
    together, alone = predictor()(images)[2], predictor()(images[2])
    np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-2)
    np.testing.assert_array_equal(together.labels, alone.labels)


def test_two_shapes_are_compiled_whatever_is_given(monkeypatch):
    """Alone, and filled up to the batch of 2."""
    seen, compiled = [], predictor()._compiled

    def recorded(variables, batch):
        seen.append(len(batch["image"]))
        return compiled(variables, batch)

    monkeypatch.setattr(predictor(), "_compiled", recorded)
    image = picture(0, 30, 50)
    predictor()(image)
    assert len(predictor()([image])) == 1 and predictor()([]) == []
    assert len(predictor()(np.stack([image] * 5))) == 5
    assert len(list(predictor()(iter([image] * 3)))) == 3
    assert predictor().detect([image] * 3).scores.shape == (3, 20)
    assert seen == [1, 2, 2, 2, 2, 2, 2, 2, 2]


def test_paths_pictures_and_arrays_are_the_same_image(tmp_path):
    image = picture(0, 30, 50)
    Image.fromarray(image).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    found = predictor()([path, str(path), Image.fromarray(image), image])
    for one in found[1:]:
        np.testing.assert_array_equal(one.boxes, found[0].boxes)
    assert [one.path for one in found] == [str(path), str(path), None, None]
    assert predictor()(path).path == str(path) and predictor()(Image.fromarray(image)).path is None


def test_an_iterator_is_read_a_batch_at_a_time():
    given = []

    def endless():
        while True:
            given.append(picture(len(given), 30, 50))
            yield given[-1]

    results = predictor()(endless())
    assert not given
    next(results)
    next(results)
    assert len(given) == 2
    next(results)
    assert len(given) == 4


def test_what_was_read_before_a_broken_file_comes_first(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    results = predictor()(iter([*[picture(0, 30, 50)] * 3, broken]))
    assert [len(next(results)) > 0 for _ in range(3)] == [True] * 3
    with pytest.raises(DataError, match="broken.jpg: the file is empty"):
        next(results)


def test_a_grey_image_is_read_with_a_word():
    grey = picture(0, 30, 50)[..., 0]
    with pytest.warns(UserWarning, match="grey image: its values are taken for red, green"):
        found = predictor()(grey)
    same = predictor()(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(found.boxes, same.boxes)


def test_the_threshold_is_asked_for_or_the_models_own_or_a_default(monkeypatch):
    asked = []
    monkeypatch.setattr(predictors, "fold_batch_norm", lambda *pair: pair)
    monkeypatch.setattr(
        predictors, "create_detect", lambda model, tta, **options: asked.append(options) or print
    )
    model, variables = tiny()
    knowing = model.clone(score_threshold=0.42)
    assert ed.Predictor(model, variables).score_threshold == 0.3
    assert ed.Predictor(knowing, variables).score_threshold == 0.42
    assert ed.Predictor(knowing, variables, score_threshold=0, sigma=0.4).score_threshold == 0
    assert asked == [
        {"score_threshold": 0.3},
        {"score_threshold": 0.42},
        {"score_threshold": 0, "sigma": 0.4},
    ]


def test_it_sees_what_evaluation_sees():
    source = Images(2)
    model, variables = tiny()
    batch = next(eval_batches(source, image_size=model.spec.image_size, batch_size=2))
    inputs = {name: batch[name] for name in ("image", "content", "scale", "size")}
    detect = jax.jit(create_detect(model, max_detections=20, pre_nms_top_k=200))
    expected = jax.device_get(detect(variables, inputs))
    found = predictor().detect([source[0].image, source[1].image])
    # The predictor's variables are folded: other roundings.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3)), r"the image is float64 \(4, 4, 3\) with values from 0.0 to 0.0"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((3, 9, 9), np.uint8)], "image 1 is uint8 .*last"),
        (["no.jpg"], "no.jpg: No such file"),
        ([[1, 2]], "image 0 is a list: give a path"),
        ({"a.jpg": 1}, "dict is no image"),
        (5, "int is no image"),
        (".", r"'\.' is a folder: give its files"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(DataError, match=message):
        predictor()(images)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score_treshold": 0.5}, TypeError, "'score_treshold'; did you mean score_threshold?"),
        ({"iou": 0.5}, TypeError, "did you mean iou_threshold?"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"score_threshold": 30}, ValueError, "score_threshold is 30; it must be in 0 … 1"),
        ({"method": "soft"}, ValueError, "NMS method 'soft' is unknown; there are hard, gaussian"),
    ],
)
def test_options_are_checked_before_anything_is_folded(monkeypatch, options, error, message):
    monkeypatch.setattr(predictors, "fold_batch_norm", None)
    with pytest.raises(error, match=re.escape(message)):
        ed.Predictor(*tiny(), **options)
