import dataclasses
import functools

import jax
import numpy as np
import pytest

import effdet_jax as ed
from effdet_jax.benchmark.race import jax_peer
from effdet_jax.benchmark.race.case import Case, as_result
from effdet_jax.classes import COCO
from tests.tiny import random_variables, tiny_spec

CASE = Case("forward", "d0", 1, (64, 64))


@functools.cache
def tiny():
    model = ed.Detector(tiny_spec(num_classes=90), COCO)
    return model, random_variables(model)


def test_no_device_runs_for_another(tmp_path):
    other = "gpu" if jax.default_backend() == "cpu" else "cpu"
    case = dataclasses.replace(CASE, image_size=(512, 512), device=other, dtype="bfloat16")
    message = f"batch 1 bfloat16' is to run on a {other}; jax has found a"
    with pytest.raises(RuntimeError, match=message):
        jax_peer.prepare("effdet_jax", case, tmp_path)


def test_forward_gives_the_outputs_of_the_network_with_its_statistics_folded():
    model, variables = tiny()
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    _, result = jax_peer._forward(model, variables, {"normal": images})
    outputs = jax.device_get(jax.jit(model.apply)(variables, images))
    expected = as_result(outputs.class_logits.values(), outputs.box_deltas.values())
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow  # It compiles a step, as benchmark/test_step.py does.
def test_training_goes_on_from_step_to_step():
    model, variables = tiny()
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        "boxes": np.tile(np.float32([8, 8, 40, 40]), (2, 3, 1)),
        "labels": np.int32([[0, 1, -1], [2, -1, -1]]),
    }
    call, first = jax_peer._train(model, variables, arrays)
    assert first.shape == (1,) and 0 < call() < first[0]


def test_detections_come_with_scores_from_high_to_low():
    model, variables = tiny()
    photos = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    call, scores = jax_peer._detect(model, variables, {"photos": photos})
    assert scores.shape == (2, 100) and (np.diff(scores) <= 0).all()
    np.testing.assert_array_equal(call().scores, scores)


def test_postprocessing_finds_the_one_sure_anchor():
    model, variables = tiny()
    count = sum(boxes.size // 4 for boxes in model.spec.anchors().values())
    logits = np.full((1, count, 90), -10, np.float32)
    logits[0, 700, 5] = 3.0
    arrays = {"logits": logits, "deltas": np.zeros((1, count, 4), np.float32)}
    call, scores = jax_peer._postprocess(model, variables, arrays)
    found = call()
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-3.0))) and found.labels[0, 0] == 5
    assert scores[0, 1] < 1e-4
