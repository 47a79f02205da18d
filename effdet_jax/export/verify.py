"""The proof of an export: what the file computes beside what the model computes here."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from effdet_jax.data.synthetic import Shapes
from effdet_jax.data.transforms import fit, letterbox
from effdet_jax.errors import UserError
from effdet_jax.export.detector import Function

BATCH_SIZES = (1, 3)

Batch = Mapping[str, np.ndarray]
Results = Mapping[str, np.ndarray]


class ExportError(UserError):
    """A detector can't be exported, or its file computes something else; the file was removed."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the two sides have in common.

    Attributes:
      rows: detections on the model's side (without NMS: anchors).
      equal: of them, those that the file gives at the same place, label included.
      difference: largest absolute difference of any number.
    """

    rows: int
    equal: int
    difference: float


def rendered_batches(image_size: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """A batch of each of `BATCH_SIZES`: rendered scenes that fill the image, half its height, half
    its width."""
    height, width = image_size
    sizes = ((height, width), (max(height // 2, 16), width), (height, max(width // 2, 16)))
    images = [Shapes(size, 1, seed=2)[0].image for size in sizes]
    placed = [letterbox(image, fit(image.shape[:2], image_size)) for image in images]
    return [
        {
            "image": np.stack([canvas for canvas, _ in placed[:number]]),
            "content": np.array([content for _, content in placed[:number]], np.int32),
        }
        for number in BATCH_SIZES
    ]


def run_here(function: Function, batches: Sequence[Batch]) -> list[dict[str, np.ndarray]]:
    """The model's own results, on the CPU."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        run = jax.jit(function)
        return [jax.device_get(run(batch["image"], batch["content"])) for batch in batches]


def compare(here: Sequence[Results], there: Sequence[Results], tolerance: float) -> Comparison:
    """Compares result for result.

    Raises:
      ExportError: names, shapes or dtypes differ.
    """
    rows = equal = 0
    difference = 0.0
    for ours, theirs in zip(here, there, strict=True):
        if (expected := _shapes(ours)) != (found := _shapes(theirs)):
            raise ExportError(f"the file gives {found} where the model gives {expected}")
        valid = ours.get("valid", np.ones(ours["boxes"].shape[:2], bool))
        same = np.ones_like(valid)
        for name, array in ours.items():
            apart = np.abs(array.astype(np.float64) - theirs[name].astype(np.float64))
            apart = np.where(array == theirs[name], 0.0, np.nan_to_num(apart, nan=np.inf))
            difference = max(difference, float(apart.max(initial=0.0)))
            same &= (apart <= tolerance).reshape(*valid.shape, -1).all(-1)
        rows += int(valid.sum())
        equal += int((same & valid).sum())
    return Comparison(rows, equal, difference)


def _shapes(results: Results) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in sorted(results.items())}
