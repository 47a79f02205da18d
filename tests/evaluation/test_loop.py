import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.data.example import Example
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.data.subset import Subset
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import Detections
from effdet_jax.distributed.mesh import (
    create_mesh,
    evaluation_sharding,
    place_evaluation_batch,
    replicated,
)
from effdet_jax.evaluation.boxes import BoxScorer
from effdet_jax.evaluation.loop import (
    create_evaluator,
    create_program,
    evaluate,
    mean_loss,
    with_rows,
)
from effdet_jax.inference.tta import TTA
from effdet_jax.model.detector import Detector
from tests.doubles import Images, Truths, WhiteCells, row
from tests.tiny import random_variables, tiny_spec


def find_the_box(variables, batch):
    """Stands in for a program: the true box, with the image's grey level as its score, and for the
    loss the mean level of the images that can be read."""
    rows = len(batch["image"])
    level = batch["image"][:, 0, 0, 0].astype(jnp.float32)
    valid = batch["valid"].astype(jnp.float32)
    loss = jnp.sum(level * valid) / jnp.maximum(jnp.sum(valid), 1.0)
    found = Detections(
        boxes=jnp.tile(jnp.array([[[5.0, 10.0, 25.0, 30.0]]]), (rows, 1, 1)),
        scores=level[:, None] / 255,
        labels=jnp.zeros((rows, 1), jnp.int32),
        valid=jnp.ones((rows, 1), bool),
    )
    return found, {"loss/total": loss}


def jitted(program, mesh):
    return jax.jit(
        with_rows(program),
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
        BoxScorer(source),
    )
    assert [row["image_id"] for row in result.results] == [f"{n}.png" for n in range(length)]
    assert [round(row["score"] * 255) for row in result.results] == list(range(length))
    assert {row["category_id"] for row in result.results} == {7}
    assert result.metrics.num_images == length
    # The mean of 0 … length - 1, whatever fills the last batch up.
    assert result.loss == {"loss/total": pytest.approx((length - 1) / 2)}
    np.testing.assert_allclose(result.metrics.summary["AP"], 1.0)


def test_broken_images_are_named_and_count_as_missed():
    source = Images(4, broken=(2,))
    batches = eval_batches(source, image_size=(64, 64), batch_size=3)
    detect = jax.jit(with_rows(find_the_box))
    scorer = BoxScorer(source)
    result = evaluate(detect, jnp.zeros(()), source, batches, lambda batch: batch, scorer)
    assert result.unreadable == ["image 2"] and result.metrics.num_images == 4
    assert result.loss == {"loss/total": pytest.approx((0 + 1 + 3) / 3)}
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
        options["objective"] = create_objective(model.spec)
        evaluator = create_evaluator(model, source, mesh, batch_size=5, **options)
        other = evaluator(variables, Subset(source, [4, 0]))  # The same program, other images.
        own = evaluator(variables)
        assert other.metrics.num_images == 2 and {row["image_id"] for row in other.results} == {
            "4.png",
            "0.png",
        }
        np.testing.assert_allclose(
            [row["score"] for row in other.results if row["image_id"] == "4.png"],
            [row["score"] for row in own.results if row["image_id"] == "4.png"],
            atol=2e-3,
        )
        return own

    one, eight = results_on(1), results_on(8)
    assert one.loss.keys() == {"loss/total", "loss/class", "loss/box"}
    for name, value in one.loss.items():  # Three of eight rows are padding on eight devices.
        assert value > 0 and eight.loss[name] == pytest.approx(value, rel=1e-4)
    one, eight = one.results, eight.results
    assert [row["image_id"] for row in one] == [row["image_id"] for row in eight]
    for name in ("bbox", "score"):
        np.testing.assert_allclose(
            np.array([row[name] for row in one]), np.array([row[name] for row in eight]), atol=2e-3
        )


class Squares(Images):
    """As many images of 64×64 with a white square of 24 px; the first has it at the top left."""

    def __getitem__(self, index):
        pixels = np.zeros((64, 64, 3), np.uint8)
        top, left = np.divmod(8 * index, 40)
        pixels[top : top + 24, left : left + 24] = 255
        return Example(pixels, self._truth(index))


def test_other_views_take_part_in_the_detections_and_not_in_the_loss():
    model = WhiteCells(tiny_spec(max_level=5, num_classes=1))
    mesh = create_mesh(4, devices=jax.devices()[:2])
    options = {"batch_size": 3, "pre_nms_top_k": 50, "max_detections": 5}
    options["objective"] = create_objective(model.spec)
    plain, several = (
        create_evaluator(model, Squares(5), mesh, tta=tta, **options)({})
        for tta in (None, TTA(flip=True, scales=(1.5,)))
    )
    assert several.loss == plain.loss and several.loss["loss/total"] > 0
    for result in (plain, several):
        assert [row["image_id"] for row in result.results] == [
            f"{number}.png" for number in range(5) for _ in range(5)
        ]
    scores = [[row["score"] for row in result.results] for result in (plain, several)]
    assert not np.allclose(*scores, atol=0.01)


class Undecided(Detector):
    """A network whose raw outputs all are 0."""

    def preprocess(self, batch):
        return batch["image"]

    def apply(self, variables, images):
        anchors = create_objective(self.spec).anchors
        shapes = {level: (len(images), *array.shape[:3]) for level, array in anchors.items()}
        zero = 0.0 * jnp.sum(images.astype(jnp.float32))  # Unknown to the compiler.
        return Outputs(
            *({level: jnp.full((*shapes[level], n), zero) for level in shapes} for n in (2, 4))
        )


def test_the_loss_is_that_of_the_boxes_of_the_images_that_can_be_read():
    model, source = Undecided(tiny_spec()), Images(3, broken=(1,))
    objective = create_objective(model.spec)
    batch = next(eval_batches(source, image_size=(64, 64), batch_size=4, max_boxes=1))
    _, parts = jax.jit(create_program(model, objective, pre_nms_top_k=10))({}, batch)
    # Two images. Of 2 · N logits each, those of matched anchors' class weigh 1/4 and the others 3/4.
    count = sum(array[..., 0].size for array in objective.anchors.values())
    targets = jax.jit(objective.targets)(batch)
    positives = int(np.sum(targets.num_positives))
    one = 0.5**1.5 * np.log(2)
    total = one * (0.25 * positives + 0.75 * (2 * 2 * count - positives))
    assert positives >= 2 and parts["loss/class"] == pytest.approx(
        total / (positives + 1), rel=1e-4
    )
    assert parts.keys() == {"loss/total", "loss/class", "loss/box"} and parts["loss/box"] > 0
    assert jax.eval_shape(create_program(model, None), {}, batch)[1] == {}


def test_each_batch_counts_by_its_images():
    batches = [(3, {"loss/total": 1.0}), (1, {"loss/total": 5.0}), (0, {"loss/total": 0.0})]
    assert mean_loss(batches) == {"loss/total": 2.0} and mean_loss(batches[2:]) == {}


def test_without_boxes_there_is_no_loss():
    model = Undecided(tiny_spec())
    source = Truths([[], [row(0, crowd=True)]])
    options = {"batch_size": 2, "pre_nms_top_k": 10, "objective": create_objective(model.spec)}
    result = create_evaluator(model, source, create_mesh(1, devices=jax.devices()[:1]), **options)(
        {}
    )
    assert result.loss == {} and result.score_threshold is None
