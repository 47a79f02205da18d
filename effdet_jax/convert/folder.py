"""A detector as a Hugging Face–style folder: `model.safetensors`, `config.json`, a model card."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from effdet_jax.classes import ClassNames
from effdet_jax.convert.rules import ConversionError, Rule, abstract_shapes, flatten, to_variables
from effdet_jax.spec import ModelSpec

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_LIBRARY = "effdet_jax"
# What a card says: the hub's word for the task, the family of networks, its paper.
_DETECTOR = ("object-detection", "EfficientDet", "1911.09070")
_FAMILIES = {
    "classification": ("image-classification", "EfficientNet", "1905.11946"),
    "segment": ("image-segmentation", "EfficientDet", "1911.09070"),
    "retinanet": ("object-detection", "RetinaNet", "1708.02002"),
    "torchvision": ("object-detection", "RetinaNet", "1708.02002"),
}


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is one of these."""
    if not all(os.path.isfile(os.path.join(path, name)) for name in (WEIGHTS, CONFIG)):
        return False
    with open(os.path.join(path, CONFIG), encoding="utf-8", errors="replace") as file:
        return f'"library": "{_LIBRARY}"' in file.read()  # timm's folders have the same files.


def write_folder(
    path: str | os.PathLike,
    spec: ModelSpec,
    class_names: ClassNames,
    variables: Mapping[str, Any],
    *,
    origin: str,
    metrics: Mapping[str, float] | None = None,
):
    """Writes the folder's three files into an existing folder.

    Args:
      class_names: of the K classes of `spec`.
      variables: `{'params', 'batch_stats'}`.
      origin: where the weights are from, for the card.
      metrics: measured results for the card, such as {'eval/AP': 0.37}.
    """
    flat = {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in flatten(jax.device_get(variables)).items()
    }
    with open(os.path.join(path, WEIGHTS), "wb") as file:
        file.write(save(flat, metadata={"format": _LIBRARY}))
    config = {
        "library": _LIBRARY,
        "architecture": spec.name,
        "spec": spec.to_dict(),
        "labels": class_names.to_dict(),
        "origin": origin,
        "metrics": dict(metrics or {}),
    }
    with open(os.path.join(path, CONFIG), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    with open(os.path.join(path, CARD), "w", encoding="utf-8") as file:
        file.write(_card(spec, class_names, flat, origin, metrics or {}))


def read_config(path: str | os.PathLike) -> tuple[ModelSpec, ClassNames]:
    """What such a folder says of its model.

    Raises:
      ConversionError: it is broken.
    """
    try:
        with open(os.path.join(path, CONFIG), encoding="utf-8") as file:
            config = json.load(file)
        return ModelSpec.from_dict(config["spec"]), ClassNames.from_dict(config["labels"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConversionError(
            f"'{path}/{CONFIG}' describes no model of effdet_jax: {error}"
        ) from error


def read_folder(path: str | os.PathLike) -> tuple[ModelSpec, ClassNames, dict[str, Any]]:
    """Spec, class_names and variables of such a folder.

    Raises:
      ConversionError: a file is broken, or its tensors aren't the spec's.
    """
    spec, class_names = read_config(path)
    try:
        flat = load_file(os.path.join(path, WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"'{path}/{WEIGHTS}' can't be read: {error}") from error
    expected = abstract_shapes(spec)
    try:
        return (
            spec,
            class_names,
            to_variables(flat, [Rule(name, (name,)) for name in expected], expected),
        )
    except ConversionError as error:
        raise ConversionError(f"'{path}/{WEIGHTS}' isn't {spec.name}: {error}") from error


def folder_notes(path: str | os.PathLike) -> tuple[str, dict[str, float]]:
    """Origin and measured results that a folder states."""
    with open(os.path.join(path, CONFIG), encoding="utf-8") as file:
        config = json.load(file)
    return config.get("origin", ""), config.get("metrics", {})


def _card(
    spec: ModelSpec,
    class_names: ClassNames,
    flat: Mapping[str, np.ndarray],
    origin: str,
    metrics: Mapping[str, float],
) -> str:
    parameters = sum(array.size for name, array in flat.items() if name.startswith("params/"))
    height, width = spec.image_size
    task, family, paper = _FAMILIES.get(spec.objective, _DETECTOR)
    return f"""---
library_name: {_LIBRARY}
pipeline_tag: {task}
tags: [{family.lower()}, jax, flax, {task}]
---

# {spec.name}, {len(class_names)} classes

{family} ([arXiv:{paper}](https://arxiv.org/abs/{paper})) for effdet_jax:
{parameters:,} parameters, {height}×{width} input, classes: {class_names.preview(12)}.

```python
import effdet_jax as ed

model, variables = ed.load("THIS_FOLDER")
detect = ed.Predictor(model, variables)
```

## Origin

{origin}

## Results

{_results(metrics)}
"""


def _results(metrics: Mapping[str, float]) -> str:
    """A table of metrics."""
    if not metrics:
        return "None measured with these weights by effdet_jax."
    rows = [f"| {name.removeprefix('eval/')} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value |", "|---|---|", *rows])
