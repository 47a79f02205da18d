"""What a detector learns: `OBJECTIVES`, by the name that a spec gives.

An objective holds all that changes when the head changes. The training step and post-processing
call its methods and know nothing of anchors or classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from jax.typing import DTypeLike

from effdet_jax.detection.classification import Classification
from effdet_jax.detection.retina import Retina
from effdet_jax.detection.retina_segment import RetinaSegment
from effdet_jax.detection.retinanet import RetinaNet, TorchvisionRetinaNet
from effdet_jax.detection.segment import Segment
from effdet_jax.spec import ModelSpec


@runtime_checkable
class Objective(Protocol):
    """Heads, targets, loss and decoding that belong together.

    Attributes:
      measures: what is measured of `decode`'s predictions, one of `evaluation.loop.SCORERS`.
      needs: what the data must have, 'boxes' or 'masks' or both; see `data.source.SOURCES`.
      class_layer: path of the layer whose outputs end with the classes, () for none.
    """

    measures: str
    needs: tuple[str, ...]
    class_layer: tuple[str, ...]

    def heads(self, *, dtype: DTypeLike, remat: bool) -> Mapping[str, nn.Module]:
        """Modules by the field of the outputs that each fills.

        Each is called with {level: [B, H, W, C]} and `train`. Its name is its scope in the
        parameter tree.
        """

    def outputs(self, **fields: Any) -> Any:
        """The raw predictions, a pytree, from the results of `heads`."""

    def targets(self, batch: Mapping[str, Any]) -> Any:
        """What the heads should predict of a training batch: a pytree, images first in every leaf."""

    def normalizer(self, targets: Any) -> Any:
        """What losses of the whole (global) batch are divided by, a scalar."""

    def loss(self, outputs: Any, targets: Any, normalizer: Any) -> tuple[Any, dict[str, Any]]:
        """(scalar to minimise, parts by metric name) of a batch or of a part of it.

        Parts of several microbatches add up to those of the whole batch. One is 'loss/total'.
        """

    def decode(self, outputs: Any, **options: Any) -> Any:
        """`detection.postprocess.Detections` in pixels of the network's input.

        Or another pytree, images first in every leaf, that `measures` knows, with its method
        `to_image(scale, size)`.
        """

    def candidates(self, outputs: Any) -> Mapping[str, Any]:
        """What `decode` chooses from, for a program that chooses itself: boxes and scores of all.

        'boxes' is [B, N, 4], yxyx in pixels of the network's input, 'scores' [B, N, K] in [0, 1].
        """


def format_loss(parts: Mapping[str, float]) -> str:
    """'0.7012 (box 0.003, class 0.55)': the total of a loss, and its parts, for a line to print.

    Args:
      parts: by metric name; those that don't begin with 'loss/' are left out.
    """
    shown = ", ".join(
        f"{name.removeprefix('loss/')} {value:.4g}"
        for name, value in parts.items()
        if name.startswith("loss/") and name != "loss/total"
    )
    return f"{parts['loss/total']:.4f} ({shown})"


# Name → (spec, loss options) → objective.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "retina": Retina,
    "retinanet": RetinaNet,
    "torchvision": TorchvisionRetinaNet,
    "segment": Segment,
    "retina+segment": RetinaSegment,
    "classification": Classification,
}


def needs(name: str) -> tuple[str, ...]:
    """What the data must have for an entry of `OBJECTIVES`, before there is a spec: 'boxes', 'masks'.

    Args:
      name: '' is a spec's default.
    """
    entry = OBJECTIVES.get(name or ModelSpec.objective)
    return getattr(entry, "needs", ("boxes",))


def create_objective(spec: ModelSpec, loss: Mapping[str, Any] | None = None) -> Objective:
    """The objective of a spec.

    Args:
      loss: keywords of its loss, such as those of `losses.detection_loss`.

    Raises:
      ValueError: there is none of that name.
    """
    if spec.objective not in OBJECTIVES:
        raise ValueError(
            f"objective '{spec.objective}' is unknown; there are {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[spec.objective](spec, **(loss or {}))
