"""Detectors as files of other programs: written, read back, compared."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from effdet_jax.classes import ClassNames
from effdet_jax.convert.detectors import detector_variables, rules_for
from effdet_jax.convert.readers import CLASS_NAMES, SCORE_THRESHOLD, SPEC, read_weights
from effdet_jax.convert.rules import ConversionError, flatten, to_tensors
from effdet_jax.spec import ModelSpec

# What a destination's name says of its form.
SUFFIXES = {".safetensors": "effdet", ".npz": "automl"}
_PYTORCH = ("effdet", "torchvision")


def destination_kind(path: str, kind: str = "") -> str:
    """'effdet', 'torchvision', 'automl' or 'folder', from the name or as given.

    Raises:
      ConversionError: the two don't go together.
    """
    stem, suffix = os.path.splitext(path)
    if suffix in (".pth", ".pt", ".bin"):
        instead = f"{stem}.safetensors"
        raise ConversionError(
            f"'{path}': pickles are read, not written; PyTorch's effdet loads safetensors. Give "
            f"'{instead}' as DESTINATION; effdet's network then takes it by "
            f"network.load_state_dict(safetensors.torch.load_file('{instead}'))"
        )
    found = kind or SUFFIXES.get(suffix, "folder")
    allowed = {
        "effdet": (".safetensors",),
        "torchvision": (".safetensors",),
        "automl": (".npz", ".safetensors"),
    }
    if found in allowed and suffix not in allowed[found]:
        raise ConversionError(
            f"'{path}': {found} tensors are written as {' or '.join(allowed[found])}"
        )
    if found == "folder" and suffix in (*SUFFIXES, ".h5", ".index", ".onnx", ".tflite"):
        raise ConversionError(f"'{path}' looks like a file, and a folder is to be written")
    return found


def tensors_for(kind: str, spec: ModelSpec, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All tensors of a detector as another program has them.

    Args:
      kind: 'effdet' (PyTorch's), 'torchvision', or 'automl' (google's).

    Raises:
      ConversionError: that program has no such model.
    """
    if kind == "automl" and not (spec.redundant_bias and spec.padding == "same"):
        raise ConversionError(
            "google/automl's models pad 'same' and have a bias before each batch normalisation; "
            f"this one pads '{spec.padding}'"
        )
    tensors = to_tensors(jax.device_get(variables), rules_for(kind, spec))
    if kind in _PYTORCH:
        # PyTorch counts batches, and loads strictly only with the counts there.
        counters = [name for name in tensors if name.endswith(".running_mean")]
        for name in counters:
            counter = name.replace("running_mean", "num_batches_tracked")
            tensors[counter] = np.zeros((), np.int64)
    return tensors


def write_tensors(
    path: str,
    kind: str,
    spec: ModelSpec,
    variables: Mapping[str, Any],
    class_names: ClassNames | None = None,
    score_threshold: float | None = None,
) -> int:
    """Writes them to a file and reads it back; the number of tensors written.

    A `.safetensors` file also gets the spec, and the classes and the score threshold if given, as
    metadata: `read_weights` knows the model again whatever its width and depth.

    Raises:
      ConversionError: that program has no such model; or what was written reads differently.
    """
    tensors = tensors_for(kind, spec, variables)
    if path.endswith(".npz"):
        np.savez(path, **tensors)
    else:
        metadata = {"format": "pt" if kind in _PYTORCH else "tf", SPEC: json.dumps(spec.to_dict())}
        if class_names:
            metadata[CLASS_NAMES] = json.dumps(class_names.to_dict())
        if score_threshold is not None:
            metadata[SCORE_THRESHOLD] = str(score_threshold)
        with open(path, "wb") as file:
            file.write(save(tensors, metadata=metadata))
    again = flatten(detector_variables(read_weights(path), spec))
    check_equal(flatten(jax.device_get(variables)), again, path)
    return len(tensors)


def check_equal(written: Mapping[str, Any], read: Mapping[str, Any], path: str):
    """Bit for bit.

    Raises:
      ConversionError: they aren't.
    """
    wrong = [
        name
        for name in written.keys() | read.keys()
        if name not in written
        or name not in read
        or np.asarray(written[name]).tobytes() != np.asarray(read[name]).tobytes()
    ]
    if wrong:
        raise ConversionError(
            f"'{path}' reads differently from what was written in {len(wrong)} tensors "
            f"({', '.join(sorted(wrong)[:3])}, …); it was removed"
        )


def write_manifest(path: str, spec: ModelSpec, tensors: Mapping[str, np.ndarray]):
    """Name, shape and dtype of every tensor, and the model, as JSON."""
    manifest = {
        "spec": spec.to_dict(),
        "tensors": {
            name: {"shape": list(array.shape), "dtype": array.dtype.name}
            for name, array in sorted(tensors.items())
        },
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
