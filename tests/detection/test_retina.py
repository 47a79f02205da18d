import jax
import jax.numpy as jnp
import numpy as np

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.losses import detection_loss
from effdet_jax.detection.retina import Retina
from effdet_jax.detection.targets import IGNORE
from tests.tiny import tiny_spec

SPEC = tiny_spec()


def batch_of():
    boxes = np.array(
        [[[8, 8, 40, 40], [0, 0, 0, 0]], [[10, 20, 30, 60], [0, 0, 20, 20]]], np.float32
    )
    labels = np.array([[1, -1], [0, 1]], np.int32)
    return {"boxes": jnp.asarray(boxes), "labels": jnp.asarray(labels), "valid": jnp.ones(2, bool)}


def outputs_of(rng):
    def levels(values):
        return {
            n: jnp.asarray(rng.normal(size=(2, *a.shape[:3], values)), jnp.float32)
            for n, a in SPEC.anchors().items()
        }

    return Outputs(levels(SPEC.num_classes), levels(4))


def test_loss_is_detection_loss_with_its_options(rng):
    objective, batch, outputs = Retina(SPEC, gamma=2.0), batch_of(), outputs_of(rng)
    targets = jax.jit(objective.targets)(batch)
    normalizer = objective.normalizer(targets)
    assert normalizer == jnp.sum(targets.num_positives) + 1
    total, parts = jax.jit(objective.loss)(outputs, targets, normalizer)
    expected, _ = jax.jit(lambda *a: detection_loss(*a, SPEC.anchors(), gamma=2.0))(
        outputs, targets
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert parts["data/num_positives"] == normalizer - 1


def test_what_a_batch_ignores_is_no_background():
    objective, batch = Retina(SPEC), batch_of()
    everywhere = jnp.ones((2, 8, 8), bool)
    targets = jax.jit(objective.targets)(batch | {"ignored": everywhere})
    labels = np.concatenate([np.asarray(level).ravel() for level in targets.labels.values()])
    matched = float(jnp.sum(targets.num_positives))
    assert (labels >= 0).sum() == matched > 0 and (labels[labels < 0] == IGNORE).all()
    assert jnp.sum(objective.targets(batch).num_positives) == matched


def test_parts_of_two_halves_add_up(rng):
    """As microbatches are added: both halves are divided by the whole batch's normaliser."""
    objective, outputs = Retina(SPEC), outputs_of(rng)
    targets = jax.jit(objective.targets)(batch_of())
    normalizer = objective.normalizer(targets)
    loss = jax.jit(objective.loss)
    whole = loss(outputs, targets, normalizer)[1]
    halves = [
        loss(
            *(jax.tree.map(lambda x, n=n: x[n : n + 1], t) for t in (outputs, targets)), normalizer
        )[1]
        for n in (0, 1)
    ]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(half[name] for half in halves), value, rtol=1e-5)


def test_decode_finds_the_surest_anchor():
    anchors = SPEC.anchors()
    logits = {n: jnp.full((1, *a.shape[:3], 2), -9.0) for n, a in anchors.items()}
    logits[4] = logits[4].at[0, 1, 2, 3, 1].set(9.0)
    found = Retina(SPEC).decode(
        Outputs(logits, {n: jnp.zeros((1, *a.shape)) for n, a in anchors.items()}),
        max_detections=5,
    )
    np.testing.assert_allclose(found.boxes[0, 0], anchors[4][1, 2, 3], rtol=1e-5)
    assert found.labels[0, 0] == 1 and found.scores[0, 0] > 0.99
