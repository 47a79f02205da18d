"""Test-time augmentation: an image mirrored and at other sizes, and one list of boxes of all views."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import Detections
from effdet_jax.errors import UserError
from effdet_jax.model.detector import Detector
from effdet_jax.ops import boxes as box_ops
from effdet_jax.ops.box_fusion import weighted_box_fusion
from effdet_jax.ops.images import mirror
from effdet_jax.ops.nms import hard_nms
from effdet_jax.spec import ModelSpec

FUSIONS = ("wbf", "nms")
SCALES = (0.25, 4.0)  # Beyond them nothing is found that training has shown.
_EXAMPLE = "such as --tta=flip,0.75,1.25"


class TTAError(UserError):
    """There are no such views of an image."""


@dataclasses.dataclass(frozen=True)
class TTA:
    """Which views of an image the network sees; the image as it is is always one of them.

    Attributes:
      flip: each view is seen mirrored, too.
      scales: other sizes than the network's own, as factors of it.
      fusion: 'wbf', weighted box fusion, or 'nms', hard NMS over the boxes of all views.
    """

    flip: bool = False
    scales: tuple[float, ...] = ()
    fusion: str = "wbf"

    def __post_init__(self):
        if self.fusion not in FUSIONS:
            raise TTAError(f"fusion '{self.fusion}' is unknown; there are {', '.join(FUSIONS)}")

    @classmethod
    def parse(cls, text: str, fusion: str | None = None) -> "TTA | None":
        """From a list such as 'flip,0.75,1.25'; None for ''.

        Args:
          fusion: one of `FUSIONS`, the first if not given.

        Raises:
          TTAError: it's no such list, or there is a fusion and no list.
        """
        if not text:
            if fusion:
                raise TTAError(
                    f"fusion '{fusion}' joins several views: --tta names them, {_EXAMPLE}"
                )
            return None
        flip, scales = False, []
        for word in text.split(","):
            if word.strip() == "flip":
                flip = True
            else:
                scales.append(_scale(word, text))
        return cls(flip, tuple(scale for scale in scales if scale != 1), fusion or FUSIONS[0])

    @property
    def num_views(self) -> int:
        return (1 + len(self.scales)) * (1 + self.flip)

    def sizes(self, spec: ModelSpec) -> tuple[tuple[int, int], ...]:
        """(height, width), pixels, of each of `scales`: the nearest multiples of the largest stride.

        Raises:
          TTAError: two of them, or one and the network's own, come to the same.
        """
        stride = 2**spec.max_level
        seen = {spec.image_size: 1.0}
        for scale in self.scales:
            height, width = (
                stride * max(1, math.floor(side * scale / stride + 0.5)) for side in spec.image_size
            )
            if (height, width) in seen:
                raise TTAError(
                    f"scales {seen[height, width]:g} and {scale:g} of "
                    f"{spec.image_size[0]}×{spec.image_size[1]} px are the same view, {height}×{width} "
                    f"px: sides are multiples of {stride}, so give scales further apart"
                )
            seen[height, width] = scale
        return tuple(seen)[1:]

    def line(self, spec: ModelSpec) -> str:
        """To print: the views, and how their boxes become one list."""
        sizes = ", ".join(
            f"{height}×{width}" for height, width in (spec.image_size, *self.sizes(spec))
        )
        mirrored = ", each also mirrored" if self.flip else ""
        fusion = {"wbf": "weighted box fusion", "nms": "NMS"}[self.fusion]
        return f"{self.num_views} views of each image: {sizes} px{mirrored}; joined by {fusion}"


def _scale(word: str, text: str) -> float:
    try:
        scale = float(word)
    except ValueError:
        raise TTAError(f"--tta={text}: '{word}' is neither flip nor a scale; {_EXAMPLE}") from None
    if not SCALES[0] <= scale <= SCALES[1]:
        raise TTAError(
            f"--tta={text}: {word} isn't in {SCALES[0]:g} … {SCALES[1]:g}, a factor of the network's "
            f"image size; {_EXAMPLE}"
        )
    return scale


def create_tta_detect(
    model: Detector,
    tta: TTA,
    *,
    score_threshold: float = 0.0,
    max_detections: int = 100,
    iou_threshold: float = 0.5,
    **options: Any,
) -> Callable[..., tuple[Detections, Any]]:
    """`(variables, batch) → (Detections in pixels of the original images, plain outputs)`.

    The batch is that of `inference.predictor.create_inference`; where `tta` has other sizes, its
    `scaled` is a tuple of such batches of the same images, one for each of `tta.sizes`. Each view
    goes through the network and its NMS by itself; a view and its mirror image are one batch of twice
    as many rows. The plain outputs are the network's of the images as they are. One program, not
    jitted; pure.

    Args:
      model: the detector.
      tta: the views.
      score_threshold: of the boxes that came of the fusion.
      max_detections: of each view, and of all together.
      iou_threshold: of hard NMS, in each view and over all.
      **options: other keywords of `postprocess.detect`, for each view.

    Raises:
      TTAError: the model finds no boxes, or not only boxes.
    """
    if create_objective(model.spec).measures != "boxes":
        raise TTAError(
            f"views of an image are joined by their boxes, and the objective '{model.spec.objective}' "
            "predicts other things: leave --tta out"
        )
    shared = {"max_detections": max_detections, "iou_threshold": iou_threshold, **options}
    specs = [dataclasses.replace(model.spec, image_size=size) for size in tta.sizes(model.spec)]
    models = [model, *(model.clone(spec=spec) for spec in specs)]
    views = [_create_view(one, tta.flip, **shared) for one in models]

    def join(found: Detections) -> Detections:
        scores = jnp.where(found.valid, found.scores, -jnp.inf)
        arrays = found.boxes, scores, found.labels
        if tta.fusion == "wbf":
            fused = weighted_box_fusion(
                *arrays, num_views=tta.num_views, max_detections=max_detections
            )
        else:
            fused = _suppress(*arrays, iou_threshold, max_detections)
        return _detections(*fused, score_threshold)

    def run(variables, batch):
        batches = batch, *batch.get("scaled", ())
        results = [view(variables, one) for view, one in zip(views, batches, strict=True)]
        together = jax.tree.map(
            lambda *arrays: jnp.concatenate(arrays, axis=1), *(found for found, _ in results)
        )
        return jax.vmap(join)(together), results[0][1]

    return run


def _create_view(model: Detector, flip: bool, **options: Any) -> Callable[..., Any]:
    """`(variables, batch) → (Detections [B, M] or, with mirror images, [B, 2M], plain outputs)`."""
    objective = create_objective(model.spec)

    def view(variables, batch):
        count = len(batch["image"])
        if flip:
            batch = _with_mirrored(batch)
        outputs = model.apply(variables, model.preprocess(batch))
        found = objective.decode(outputs, **options)
        if flip:
            width = batch["content"][:, 1].astype(jnp.float32)
            mirrored = box_ops.mirror(found.boxes, width[:, None])
            second = jnp.arange(2 * count) % 2 == 1
            found = found.replace(boxes=jnp.where(second[:, None, None], mirrored, found.boxes))
            outputs = jax.tree.map(lambda array: array[::2], outputs)
        found = found.to_image(batch["scale"], batch["size"])
        return jax.tree.map(lambda array: _per_image(array, count), found), outputs

    return view


def _with_mirrored(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Each image followed by its mirror image, so that both are on the device that the image is on."""
    both = {
        name: jnp.repeat(batch[name], 2, axis=0) for name in ("image", "content", "scale", "size")
    }
    mirrored = mirror(batch["image"], batch["content"])
    image = jnp.stack([batch["image"], mirrored], axis=1)  # [B, 2, H, W, 3]
    return {**both, "image": image.reshape(both["image"].shape)}


def _per_image(array: Array, count: int) -> Array:
    """`[B · views, M, …]` → `[B, views · M, …]`."""
    return array.reshape(count, -1, *array.shape[2:])


def _suppress(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    labels: Array,
    iou_threshold: float,
    max_detections: int,
) -> tuple[Array, Array, Array]:
    """Boxes, scores and labels that hard NMS keeps of those of all views; labels are -1 beyond."""
    order = jnp.argsort(-scores, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    options = {"iou_threshold": iou_threshold, "max_detections": max_detections}
    kept, scores = hard_nms(boxes, scores, labels, **options)
    return boxes[kept], scores, jnp.where(kept >= 0, labels[kept], -1)


def _detections(boxes: Array, scores: Array, labels: Array, score_threshold: float) -> Detections:
    valid = (labels >= 0) & (scores >= score_threshold)
    return Detections(
        boxes=jnp.where(valid[:, None], boxes, 0.0),
        scores=jnp.where(valid, scores, 0.0),
        labels=jnp.where(valid, labels, 0),
        valid=valid,
    )
