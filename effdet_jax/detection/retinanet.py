"""RetinaNet's objectives: EfficientDet's with what RetinaNet's own heads have otherwise.

Matching, focal and box loss are `retina.Retina`'s, with the knobs of `losses.detection_loss`: that
is how EfficientDet's paper trained the RetinaNets that it compares with. `gamma=2` is RetinaNet's.
"""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.postprocess import Detections
from effdet_jax.detection.retina import Retina
from effdet_jax.layers.initializers import hundredth_normal

# What torchvision lets a side grow by at most: a factor of 62.5.
MOST_GROWTH = math.log(1000 / 16)
LEVEL_TOP_K = 1000


class RetinaNet(Retina):
    """Heads that start from N(0, 0.01) (arXiv:1708.02002, section 4.1)."""

    head_options: ClassVar = {"kernel_init": hundredth_normal}


class TorchvisionRetinaNet(RetinaNet):
    """torchvision's `retinanet_resnet50_fpn`, whose weights it takes as they are.

    The heads have no normalisation and predict (tx, ty, tw, th); outputs are in this package's
    order. tw and th are cut at log 62.5 before boxes are decoded, and the 1000 best of every level
    enter NMS, whatever `pre_nms_top_k` says; torchvision's other options are `score_threshold=0.05`
    and `max_detections=300`. Class columns of its COCO weights are COCO's ids 0 … 90; a model of
    another number of classes has none for the background.
    """

    head_options: ClassVar = {**RetinaNet.head_options, "norm": False}

    def outputs(self, **fields: Any) -> Outputs:
        outputs = super().outputs(**fields)
        order = jnp.array([1, 0, 3, 2])
        return _with_deltas(outputs, lambda deltas: deltas[..., order])

    def decode(self, outputs: Outputs, **options: Any) -> Detections:
        options["level_top_k"] = LEVEL_TOP_K
        return super().decode(_with_deltas(outputs, _cut), **options)

    def candidates(self, outputs: Outputs) -> dict[str, Array]:
        return super().candidates(_with_deltas(outputs, _cut))


def _cut(deltas: Array) -> Array:
    return deltas.at[..., 2:].min(MOST_GROWTH)


def _with_deltas(outputs: Outputs, change: Any) -> Outputs:
    changed = {level: change(deltas) for level, deltas in outputs.box_deltas.items()}
    return outputs.replace(box_deltas=changed)
