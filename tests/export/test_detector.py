import functools

import jax
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.export.detector import CANDIDATES, DETECTIONS, create_function, describe
from tests.tiny import random_variables, tiny_spec

SIZE = (128, 192)


@functools.cache
def tiny():
    model = ed.Detector(tiny_spec(image_size=SIZE), ed.ClassNames(("a", "b"), (3, 9)))
    return model, random_variables(model)


def scene(rng):
    image = rng.integers(0, 255, (2, *SIZE, 3), dtype=np.uint8)
    image[1, 70:] = 0
    return image, np.array([SIZE, (70, 192)], np.int32)


@pytest.mark.parametrize("method", ["hard", "gaussian"])
def test_it_is_what_the_predictor_computes(rng, method):
    model, variables = tiny()
    image, content = scene(rng)
    options = {"max_detections": 30, "method": method}
    found = jax.jit(create_function(model, variables, **options))(image, content)
    assert found.keys() == DETECTIONS.keys()
    # Images of the network's height or width are given to the network as they are, scale 1.
    predictor = ed.Predictor(model, variables, score_threshold=0.0, **options)
    expected = predictor.detect([image[0], image[1, :70]])
    np.testing.assert_array_equal(found["labels"], expected.labels)
    np.testing.assert_array_equal(found["valid"], expected.valid)
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-6)
    limits = np.array([(*size, *size) for size in content], np.float32)[:, None]
    boxes = np.clip(found["boxes"], 0, limits)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)


def test_without_nms_the_best_candidate_is_the_best_detection(rng):
    model, variables = tiny()
    image, content = scene(rng)
    found = jax.jit(create_function(model, variables))(image, content)
    everything = jax.jit(create_function(model, variables, method="none"))(image, content)
    assert everything.keys() == CANDIDATES.keys()
    anchors = sum(level.size // 4 for level in model.spec.anchors().values())
    assert everything["boxes"].shape == (2, anchors, 4)
    assert everything["scores"].shape == (2, anchors, 2)
    for number in range(2):
        scores = np.asarray(everything["scores"][number])
        anchor, label = np.unravel_index(scores.argmax(), scores.shape)
        assert label == found["labels"][number, 0]
        np.testing.assert_allclose(scores.max(), found["scores"][number, 0], rtol=1e-6)
        box = everything["boxes"][number, anchor]
        np.testing.assert_allclose(box, found["boxes"][number, 0], atol=1e-3)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="NMS 'soft' is unknown; there are hard, gaussian, none"):
        create_function(*tiny(), method="soft")


def test_the_description_says_which_outputs_there_are():
    model, _ = tiny()
    hard = describe(model, method="hard", score_threshold=0.3)
    assert hard["outputs"] == DETECTIONS and hard["detection"]["score_threshold"] == 0.3
    assert hard["class_names"]["ids"] == [3, 9] and hard["image_size"] == [128, 192]
    none = describe(model, method="none", score_threshold=0.3)
    assert none["outputs"] == CANDIDATES and none["detection"] == {"nms": "none"}
    assert describe(ed.Detector(model.spec), method="none")["class_names"] is None
