import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.data.example import coco_dataset
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.data.subset import Subset
from effdet_jax.detection.postprocess import Detections
from effdet_jax.distributed.mesh import (
    create_mesh,
    evaluation_sharding,
    place_evaluation_batch,
    replicated,
)
from effdet_jax.evaluation.loop import create_evaluator, evaluate, with_rows
from effdet_jax.model.detector import Detector
from tests.doubles import Images
from tests.tiny import random_variables, tiny_spec


def find_the_box(variables, batch):
    """Stands in for a detector: the true box, with the image's grey level as its score."""
    rows = len(batch["image"])
    level = batch["image"][:, 0, 0, 0].astype(jnp.float32)
    return Detections(
        boxes=jnp.tile(jnp.array([[[5.0, 10.0, 25.0, 30.0]]]), (rows, 1, 1)),
        scores=level[:, None] / 255,
        labels=jnp.zeros((rows, 1), jnp.int32),
        valid=jnp.ones((rows, 1), bool),
    )


def jitted(detect, mesh):
    return jax.jit(
        with_rows(detect),
        in_shardings=(replicated(mesh), evaluation_sharding(mesh)),
        out_shardings=replicated(mesh),
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("length", [1, 8, 13])
def test_every_image_counts_once_on_any_number_of_devices(devices, length):
    mesh = create_mesh(8, devices=jax.devices()[:devices])
    source = Images(length)
    result = evaluate(
        jitted(find_the_box, mesh),
        jnp.zeros(()),
        source,
        eval_batches(source, image_size=(64, 64), batch_size=8),
        functools.partial(place_evaluation_batch, mesh=mesh),
        coco_dataset(source.ground_truth(), source.class_names),
    )
    assert [row["image_id"] for row in result.results] == [f"{n}.png" for n in range(length)]
    assert [round(row["score"] * 255) for row in result.results] == list(range(length))
    assert {row["category_id"] for row in result.results} == {7}
    assert result.metrics.num_images == length
    np.testing.assert_allclose(result.metrics.summary["AP"], 1.0)


def test_broken_images_are_named_and_count_as_missed():
    source = Images(4, broken=(2,))
    batches = eval_batches(source, image_size=(64, 64), batch_size=3)
    detect = jax.jit(with_rows(find_the_box))
    dataset = coco_dataset(source.ground_truth(), source.class_names)
    result = evaluate(detect, jnp.zeros(()), source, batches, lambda batch: batch, dataset)
    assert result.unreadable == ["image 2"] and result.metrics.num_images == 4
    assert result.first.keys() == {0, 1, 3} and result.first[3].scores[0] == pytest.approx(3 / 255)
    np.testing.assert_allclose(result.metrics.summary["AR100"], 0.75)


@functools.cache
def tiny_detector():
    spec = tiny_spec(num_classes=1)
    model = Detector(spec)
    return model, random_variables(model)


def test_detections_of_a_network_are_the_same_on_one_and_eight_devices():
    model, variables = tiny_detector()
    source = Images(5)

    def results_on(devices):
        mesh = create_mesh(8, devices=jax.devices()[:devices])
        options = {"max_detections": 10, "pre_nms_top_k": 100}
        # Five images are filled up to eight on eight devices.
        evaluator = create_evaluator(model, source, mesh, batch_size=5, **options)
        other = evaluator(variables, Subset(source, [4, 0]))  # The same program, other images.
        own = evaluator(variables).results
        assert other.metrics.num_images == 2 and {row["image_id"] for row in other.results} == {
            "4.png",
            "0.png",
        }
        np.testing.assert_allclose(
            [row["score"] for row in other.results if row["image_id"] == "4.png"],
            [row["score"] for row in own if row["image_id"] == "4.png"],
            atol=2e-3,
        )
        return own

    one, eight = results_on(1), results_on(8)
    assert [row["image_id"] for row in one] == [row["image_id"] for row in eight]
    for name in ("bbox", "score"):
        np.testing.assert_allclose(
            np.array([row[name] for row in one]), np.array([row[name] for row in eight]), atol=2e-3
        )
