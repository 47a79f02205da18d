import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.detection.classification import (
    Classification,
    Classified,
    ClassifierHead,
    ClassLogits,
    ClassTargets,
)
from effdet_jax.spec import model_spec

SPEC = model_spec("efficientnet-b0", num_classes=3)
LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]], np.float32))


def loss_of(labels, **options):
    objective, targets = Classification(SPEC, **options), ClassTargets(jnp.array(labels))
    normalizer = objective.normalizer(targets)
    return objective.loss(ClassLogits(jnp.asarray(LOGITS)), targets, normalizer)


def test_the_loss_is_cross_entropy_of_the_images_that_have_a_class():
    total, parts = loss_of([0, 1, -1])
    assert total == pytest.approx(-(np.log(0.7) + np.log(0.3)) / 2, rel=1e-5)
    assert parts["loss/total"] == total and parts["train/top1"] == 0.5
    assert loss_of([-1, -1, -1])[0] == 0.0


def test_label_smoothing_spreads_a_share_over_all_classes():
    total, _ = loss_of([0, -1, -1], label_smoothing=0.3)
    expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    assert total == pytest.approx(expected, rel=1e-5)


def test_classes_have_weights_and_other_objectives_knobs_mean_nothing():
    total, _ = loss_of([0, 1, -1], class_weights=(2.0, 0.0, 1.0), alpha=0.5, gamma=3.0)
    assert total == pytest.approx(-2 * np.log(0.7) / 2, rel=1e-5)


def test_the_largest_box_of_an_image_is_its_class():
    batch = {
        "boxes": jnp.array([[[0, 0, 2, 2], [0, 0, 3, 3]], [[0, 0, 9, 9], [0, 0, 0, 0]]] * 2, float),
        "labels": jnp.array([[2, 1], [0, -1], [-1, -1], [1, -1]]),
        "valid": jnp.array([True, True, True, False]),
    }
    assert Classification(SPEC).targets(batch).labels.tolist() == [1, 0, -1, -1]


def test_the_best_classes_come_as_boxes_of_whole_images():
    found = Classification(SPEC).decode(
        ClassLogits(jnp.asarray(LOGITS)), score_threshold=0.25, iou_threshold=0.5
    )
    assert isinstance(found, Classified) and found.labels.tolist()[1] == [2, 1, 0]
    np.testing.assert_allclose(found.scores[1], [0.6, 0.3, 0.1], rtol=1e-5)
    assert found.valid.tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    np.testing.assert_array_equal(found.boxes[0, 0], [0, 0, 224, 224])
    size = jnp.array([[30.0, 40.0], [10.0, 20.0], [5.0, 6.0]])
    np.testing.assert_array_equal(found.to_image(jnp.ones(3), size).boxes[1], [[0, 0, 10, 20]] * 3)


def test_candidates_are_the_probabilities_of_all_classes():
    candidates = Classification(SPEC).candidates(ClassLogits(jnp.asarray(LOGITS)))
    assert candidates["boxes"].shape == (3, 1, 4)
    np.testing.assert_allclose(candidates["scores"][:, 0], np.exp(LOGITS), rtol=1e-5)


def test_the_head_pools_the_coarsest_level_and_drops_in_training_alone():
    head = ClassifierHead(2, 8, 0, "swish", 1e-3, dropout=0.5)
    rng = np.random.default_rng(0)
    features = {
        3: jnp.zeros((2, 4, 4, 5)),
        5: jnp.asarray(rng.normal(size=(2, 2, 2, 6)), jnp.float32),
    }
    variables = head.init(jax.random.key(0), features)
    kernel, bias = (variables["params"]["predict"][name] for name in ("kernel", "bias"))
    # Uniform in ±1 / √2.
    assert float(jnp.max(jnp.abs(kernel))) <= 2**-0.5 and float(jnp.std(kernel)) > 0.2
    expected = np.asarray(features[5]).mean((1, 2)) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(head.apply(variables, features), expected, rtol=1e-4, atol=1e-6)
    rngs = {"drop_connect": jax.random.key(1)}
    dropped = head.apply(variables, features, train=True, rngs=rngs)
    assert not np.allclose(dropped, expected)
