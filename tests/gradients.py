"""One training step that is compared with a recorded one."""

import jax

from effdet_jax.detection.losses import detection_loss
from effdet_jax.model.detector import Detector
from tests.quick import QUICK


def training_step(spec, variables, images, targets):
    """(loss parts, outputs, updated statistics, gradients), computed in the dtype of `images`."""

    def loss_of(params, images, targets):
        outputs, updated = Detector(spec, dtype=images.dtype).apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        loss, parts = detection_loss(outputs, targets, spec.anchors())
        return loss, (parts, outputs, updated)

    step = jax.jit(jax.grad(loss_of, has_aux=True), compiler_options=QUICK)
    gradients, (parts, outputs, updated) = step(variables["params"], images, targets)
    return jax.device_get((parts, outputs, updated, {"params": gradients}))
