import functools

import jax
import numpy as np
import pytest
from PIL import Image

import effdet_jax as ed
from effdet_jax.data.pipeline import eval_batches
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
    return ed.Predictor(*tiny(), batch_size=2, max_detections=20, pre_nms_top_k=200)


def picture(seed, height, width):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_images_of_different_sizes_give_boxes_in_their_own_pixels():
    images = [picture(0, 30, 50), picture(1, 200, 90), picture(2, 128, 192)]
    found = predictor()(images)
    assert found.boxes.shape == (3, 20, 4) and found.valid.any(1).all()
    assert isinstance(found.boxes, np.ndarray)
    for number, image in enumerate(images):
        boxes = found[number].boxes[found[number].valid]
        assert (boxes >= 0).all() and (boxes <= np.array([*image.shape[:2]] * 2)).all()


def test_an_image_alone_is_the_same_as_among_others():
    # Batches of 2 in both cases; alone means repeated to fill the batch.
    images = [picture(seed, 70, 80) for seed in range(3)]
    together = predictor()(images)[2]
    alone = predictor()(np.stack([images[2], images[2]]))[0]
    np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-3)
    np.testing.assert_array_equal(together.labels, alone.labels)
    single = predictor()(images[2])
    np.testing.assert_allclose(single.boxes[0], alone.boxes, atol=1e-2)


def test_it_sees_what_evaluation_sees():
    source = Images(2)
    model, variables = tiny()
    batch = next(eval_batches(source, image_size=model.spec.image_size, batch_size=2))
    inputs = {name: batch[name] for name in ("image", "content", "scale", "size")}
    detect = jax.jit(create_detect(model, max_detections=20, pre_nms_top_k=200))
    expected = jax.device_get(detect(variables, inputs))
    found = predictor()([source[0].image, source[1].image])
    # The predictor's variables are folded: other roundings.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        ([np.zeros((4, 4, 3))], r"image 0 is float64 \(4, 4, 3\); it must be uint8"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)], "image 1 is uint8"),
        ([np.zeros((4, 4, 4), np.uint8)], r"\(4, 4, 4\)"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        predictor()(images)
