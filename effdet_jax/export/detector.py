"""A detector as one function of arrays, its weights inside, and what a file says of it."""

import platform
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

import effdet_jax
from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import NMS_METHODS
from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.model.detector import Detector

# `(image [B, H, W, 3] uint8, content [B, 2] int32) → {name: array}`.
Function = Callable[[UInt8[Array, "B H W 3"], Int[Array, "B 2"]], dict[str, Array]]
NO_NMS = "none"

INPUTS = {
    "image": "uint8 [B, H, W, 3] RGB, resized and padded as 'letterbox' says",
    "content": "int32 [B, 2]: height and width of the part of `image` that isn't padding",
}
DETECTIONS = {
    "boxes": "float32 [B, M, 4]: ymin, xmin, ymax, xmax in pixels of `image`, best first",
    "scores": "float32 [B, M] in [0, 1], 0 in rows that hold nothing",
    "labels": "int32 [B, M]: index into class_names",
    "valid": "bool [B, M]: False for rows that hold nothing",
}
CANDIDATES = {
    "boxes": "float32 [B, N, 4]: ymin, xmin, ymax, xmax in pixels of `image`, one per anchor",
    "scores": "float32 [B, N, K] in [0, 1], one per anchor and class",
}
LETTERBOX = {
    "resize": "bilinear, by scale = min(H / height, W / width) in float32: "
    "int(height · scale) × int(width · scale)",
    "place": "at the top left; zeros to the right and below",
    "boxes_back": "divide by scale, then cut to the image",
}


CROP = {
    "resize": "bilinear, by scale = max(H / height, W / width) / spec.crop",
    "place": "the middle, which fills `image`",
    "boxes_back": "a class is of the whole image",
}


def create_function(
    model: Detector, variables: Mapping[str, Any], *, method: str = "hard", **options: Any
) -> Function:
    """All of inference after the resizing: normalise, run, decode, suppress. Not jitted; pure.

    Args:
      model: the detector.
      variables: its params and batch_stats; batch normalisations are folded into the kernels.
      method: of NMS, 'hard' or 'gaussian'; 'none' gives every anchor's box and scores instead.
      **options: keywords of `detection.postprocess.detect`, for the other methods.

    Returns:
      A function whose result is described by `DETECTIONS`, or by `CANDIDATES` for 'none'.

    Raises:
      ValueError: an unknown method.
    """
    if method not in (*NMS_METHODS, NO_NMS):
        raise ValueError(f"NMS '{method}' is unknown; there are {', '.join(NMS_METHODS)}, {NO_NMS}")
    folded, constants = fold_batch_norm(model, variables)
    objective = create_objective(folded.spec)

    def run(image, content):
        inputs = folded.preprocess({"image": image, "content": content})
        outputs = folded.apply(constants, inputs)
        if method == NO_NMS:
            return dict(objective.candidates(outputs))
        found = objective.decode(outputs, method=method, **options)
        return {name: getattr(found, name) for name in DETECTIONS}

    return run


def describe(model: Detector, *, method: str, **options: Any) -> dict[str, Any]:
    """What a program needs beside the function, as plain JSON types."""
    names = model.class_names
    return {
        "model": model.spec.name,
        "spec": model.spec.to_dict(),
        "image_size": list(model.spec.image_size),
        "class_names": names.to_dict() if names else None,
        "inputs": INPUTS,
        "outputs": CANDIDATES if method == NO_NMS else DETECTIONS,
        "letterbox": CROP if model.spec.crop else LETTERBOX,
        "detection": {"nms": method, **({} if method == NO_NMS else options)},
        "dtype": np.dtype(model.dtype).name,
        "versions": {
            "effdet_jax": effdet_jax.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }
