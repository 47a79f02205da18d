import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effdet_jax.classes import IGNORED_PIXEL
from effdet_jax.detection.segment import MaskOutputs, Segment
from tests.tiny import tiny_spec

SPEC = tiny_spec(objective="segment")  # 64 px, two classes: cells of 4 px, three values.


def test_targets_are_the_pixels_in_the_middle_of_cells():
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 2, 6] = 2  # The middle of cell (0, 1).
    masks[0, 1, 1] = 1  # The middle of none.
    batch = {"masks": jnp.asarray(masks), "valid": jnp.array([True, False])}
    targets = Segment(SPEC).targets(batch)
    assert targets.shape == (2, 16, 16) and targets[0, 0, 1] == 2 and targets[0].sum() == 2
    assert (targets[1] == IGNORED_PIXEL).all()
    assert Segment(SPEC).normalizer(targets) == 256


def test_the_loss_is_the_mean_over_pixels_that_count():
    logits = jnp.zeros((1, 16, 16, 3)).at[..., 1].set(1.0)
    targets = jnp.full((1, 16, 16), IGNORED_PIXEL, jnp.uint8).at[0, 0, :2].set(jnp.uint8([1, 0]))
    objective = Segment(SPEC)
    total, parts = objective.loss(MaskOutputs(logits), targets, objective.normalizer(targets))
    log_sum = np.log(2 + np.e)
    np.testing.assert_allclose(total, ((log_sum - 1) + log_sum) / 2, rtol=1e-6)
    assert parts["loss/mask"] == parts["loss/total"] == total
    weighted = Segment(SPEC, class_weights=(3.0, 1.0), alpha=0.25)
    total, _ = weighted.loss(MaskOutputs(logits), targets, jnp.float32(2))
    np.testing.assert_allclose(total, (3 * (log_sum - 1) + log_sum) / 2, rtol=1e-6)


def test_a_batch_without_a_pixel_that_counts_has_loss_0():
    targets = jnp.full((1, 16, 16), IGNORED_PIXEL, jnp.uint8)
    objective = Segment(SPEC)
    total, _ = objective.loss(
        MaskOutputs(jnp.ones((1, 16, 16, 3))), targets, objective.normalizer(targets)
    )
    assert total == 0


def test_decoding_gives_every_pixel_the_likeliest_class():
    logits = np.zeros((1, 16, 16, 3), np.float32)
    logits[..., 0], logits[0, :, 8:, 2] = 1.0, 3.0
    pixels = np.asarray(
        Segment(SPEC).decode(MaskOutputs(jnp.asarray(logits)), iou_threshold=0.5).pixels
    )
    assert pixels.shape == (1, 64, 64) and pixels.dtype == np.uint8
    assert not pixels[..., :29].any() and (pixels[..., 35:] == 2).all()


def test_more_classes_than_a_byte_names_are_refused():
    with pytest.raises(ValueError, match="a mask can name 254 classes, and there are 255"):
        Segment(tiny_spec(num_classes=255))


def test_smoothing_spreads_the_truth():
    targets = jnp.zeros((1, 16, 16), jnp.uint8)
    logits = jnp.zeros((1, 16, 16, 3)).at[..., 0].set(2.0)
    objective = Segment(SPEC, label_smoothing=0.3)
    total, _ = objective.loss(MaskOutputs(logits), targets, objective.normalizer(targets))
    log_p = np.asarray(jax.nn.log_softmax(jnp.array([2.0, 0.0, 0.0])))
    np.testing.assert_allclose(total, -(log_p @ [0.8, 0.1, 0.1]), rtol=1e-5)
