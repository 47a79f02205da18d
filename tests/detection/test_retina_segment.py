import jax
import jax.numpy as jnp
import numpy as np

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.retina import Retina
from effdet_jax.detection.retina_segment import RetinaSegment
from effdet_jax.detection.segment import MaskOutputs, Segment
from tests.detection.test_retina import batch_of, outputs_of
from tests.tiny import tiny_spec

SPEC = tiny_spec()


def test_the_loss_is_the_sum_of_both_and_decoding_gives_both(rng):
    boxes: Outputs = outputs_of(rng)
    logits = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32)
    batch = batch_of() | {"masks": jnp.ones((2, 64, 64), jnp.uint8)}
    both = RetinaSegment(SPEC, gamma=2.0)
    outputs = both.outputs(
        class_logits=boxes.class_logits, box_deltas=boxes.box_deltas, mask_logits=logits
    )

    @jax.jit
    def losses(outputs, batch):
        found = []
        for objective, out in (
            (both, outputs),
            (Retina(SPEC, gamma=2.0), outputs.boxes),
            (Segment(SPEC), outputs.masks),
        ):
            targets = objective.targets(batch)
            found.append(objective.loss(out, targets, objective.normalizer(targets)))
        return found

    (total, parts), (of_boxes, _), (of_masks, _) = losses(outputs, batch)
    np.testing.assert_allclose(total, of_boxes + of_masks, rtol=1e-6)
    assert parts["loss/total"] == total and {"loss/class", "loss/box", "loss/mask"} < parts.keys()
    found = both.decode(outputs, max_detections=3)
    assert found.detections.boxes.shape == (2, 3, 4) and found.masks.pixels.shape == (2, 64, 64)
    one = found[1]
    assert one.parts().keys() == {"boxes", "scores", "labels", "pixels"}
    expected = Segment(SPEC).decode(MaskOutputs(logits)).pixels[1]
    np.testing.assert_array_equal(one.masks.pixels, expected)
