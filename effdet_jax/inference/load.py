"""`load`: a detector from any file or folder that holds one."""

import dataclasses
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from effdet_jax.checkpoint import is_checkpoint, restore_model
from effdet_jax.classes import ClassNames
from effdet_jax.convert.detectors import backbone_variables, detector_variables, guess_spec
from effdet_jax.convert.folder import is_folder, read_folder
from effdet_jax.convert.readers import read_weights
from effdet_jax.convert.rules import ConversionError
from effdet_jax.model.detector import Detector

HUB = "hf://"


def load(path: str | os.PathLike, *, dtype: DTypeLike | None = None) -> tuple[Detector, Any]:
    """A detector and its variables, on the default device.

    Args:
      path: a workdir (its best checkpoint), a folder that `effdet_jax.convert` wrote, weights of
        PyTorch effdet or google/automl (`.safetensors`, `.pth`, a TensorFlow checkpoint, …), or
        'hf://owner/name' on the Hugging Face hub (needs `pip install 'effdet_jax[hub]'`).
      dtype: of the computation; if not given, that of the run's own evaluations, float32 for
        what is no run.

    Raises:
      CheckpointError, ConversionError: there is no model, or it can't be read.
    """
    path = os.fspath(path)
    if path.startswith(HUB):
        path = _download(path)
    if is_folder(path):
        spec, class_names, variables = read_folder(path)
    elif is_checkpoint(path):
        return restore_model(path, dtype=dtype)
    else:
        weights = read_weights(path)
        spec = guess_spec(weights)
        class_names = ClassNames.numbered(spec.num_classes)
        variables = detector_variables(weights, spec)
    dtype = jnp.float32 if dtype is None else dtype
    return Detector(spec, class_names, dtype), jax.device_put(variables)


def initial_kind(path: str) -> str:
    """'backbone' or 'detector': what weights to start from are of.

    Raises:
      CheckpointError, ConversionError: there are none.
    """
    if path.startswith(HUB) or is_folder(path) or is_checkpoint(path):
        return "detector"
    return "backbone" if read_weights(path).backbone_only else "detector"


def read_initial_variables(path: str, model: Detector) -> Any:
    """Variables to start `model` from, whatever their class count; a backbone's alone if it is one.

    Raises:
      CheckpointError, ConversionError: there are none, or they are of another model.
    """
    if path.startswith(HUB) or is_folder(path) or is_checkpoint(path):
        return jax.device_get(load(path)[1])
    weights = read_weights(path)
    print("\n".join(f"init       {note}" for note in weights.notes), end="\n" * bool(weights.notes))
    if weights.backbone_only:
        return backbone_variables(weights, model.spec)
    found = guess_spec(weights, model.spec.name)
    same = {"redundant_bias": found.redundant_bias, "num_classes": found.num_classes}
    if found.padding != model.spec.padding:
        print(
            f"init       these weights were trained with {found.padding} padding, this model "
            f"pads '{model.spec.padding}': it sees their features shifted by a pixel"
        )
    return detector_variables(weights, dataclasses.replace(model.spec, **same))


def _download(path: str) -> str:
    """A folder on the Hugging Face hub, in the hub's own cache."""
    if not re.fullmatch(r"hf://[\w.-]+/[\w.-]+", path):
        raise ConversionError(f"'{path}' isn't like 'hf://owner/name'")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConversionError(
            f"'{path}' needs huggingface_hub: pip install 'effdet_jax[hub]'"
        ) from error
    try:
        return huggingface_hub.snapshot_download(path.removeprefix(HUB))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ConversionError(f"'{path}' can't be fetched: {error}") from error
