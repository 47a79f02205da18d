"""What a race is over, and the arrays that its contestants share and are compared by."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Files in the folder that all contestants of a case read.
WEIGHTS, INPUTS, ONNX = "weights.safetensors", "inputs.npz", "model.onnx"
# glibc's allocator as `launch/cpu.sh` sets it; other C libraries don't read it. In huge pages, and
# for all but training, whose compilers take gigabytes, freed memory is kept for the next run.
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KEEP_MEMORY = (
    "glibc.malloc.mmap_max=0:glibc.malloc.top_pad=268435456:"
    "glibc.malloc.trim_threshold=1099511627776"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A task of a model at one batch size: what contestants race over.

    Attributes:
      task: 'forward', 'detect', 'postprocess' or 'train'.
      model: name without its family, such as 'd0'.
      batch_size: images at a time.
      image_size: (height, width) of the network's input.
      device: 'cpu' or 'gpu'.
      dtype: what the network computes in: 'float32' or 'bfloat16'.
    """

    task: str
    model: str
    batch_size: int
    image_size: tuple[int, int]
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Case":
        """The case whose fields came through JSON, which has no tuples."""
        return cls(**{**fields, "image_size": tuple(fields["image_size"])})

    @property
    def title(self) -> str:
        height, width = self.image_size
        size = str(height) if height == width else f"{height}×{width}"
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.task} {self.model} {size} batch {self.batch_size}{dtype}"

    @property
    def environment(self) -> dict[str, str]:
        """What every contestant's process finds set, so that none is better off."""
        if self.device == "cpu":
            tunables = HUGE_PAGES if self.task == "train" else f"{HUGE_PAGES}:{KEEP_MEMORY}"
            return {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": tunables}
        return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # They share the GPU's memory.


def file_stem(name: str) -> str:
    """A contestant's name as that of its files."""
    return re.sub(r"\W+", "-", name)


def by_anchor(levels: Iterable[np.ndarray], last: int) -> np.ndarray:
    """[B, H, W, …] per level → [B, N, last], the same order of anchors for all contestants."""
    return np.concatenate([x.reshape(len(x), -1, last) for x in levels], 1)


def as_result(
    class_levels: Iterable[np.ndarray], box_levels: Iterable[np.ndarray], num_classes: int = 90
) -> np.ndarray:
    """All of a network's outputs, [B, H, W, …] per level, as one float32 vector to compare."""
    parts = by_anchor(class_levels, num_classes), by_anchor(box_levels, 4)
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)
