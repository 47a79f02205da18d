"""Weights of other programs → a detector: which model they are, and its variables."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from effdet_jax.convert import pytorch, tensorflow, torchvision, zylo117
from effdet_jax.convert.backbones import backbone_rules, names_of
from effdet_jax.convert.readers import Weights
from effdet_jax.convert.rules import (
    ConversionError,
    Rule,
    abstract_shapes,
    flatten,
    to_variables,
    unflatten,
)
from effdet_jax.families import FAMILIES
from effdet_jax.layers.convolution import kernel_path
from effdet_jax.model.detector import Detector
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.initialize import initial_variables
from effdet_jax.spec import ADVPROP, MODELS, PYTORCH, ModelSpec, model_spec

RULES: dict[str, Callable[[ModelSpec], Iterator[Rule]]] = {
    "effdet": pytorch.effdet_rules,
    "automl": tensorflow.automl_rules,
    "automl-tf2": tensorflow.automl_tf2_rules,
    "zylo117": zylo117.zylo117_rules,
    "torchvision": torchvision.torchvision_rules,
}
# Pyramids and models that are found in a kind of weights: node lists and EfficientDets if it isn't here.
_NECKS = {"torchvision": ("retinanet_plain",)}
_MODELS = {"torchvision": tuple(n for n in FAMILIES["retinanet"] if n.endswith("-torchvision"))}
_HEAD = "class_head/predict/"
# PyTorch effdet's models with quad-FPN: the model here that each is close to, and what it changes.
# (efficientdet_q1 resizes bilinearly, which isn't here.)
_QUAD = {
    "efficientdet_q0": ("efficientdet-d0", {"pyramid": "qufpn"}),
    "efficientdet_q2": ("efficientdet-d2", {"pyramid": "qufpn", "pyramid_cells": 4}),
}
_NODES = r"^fpn\.cell\.0\.fnode\.(\d+)\."  # Of PyTorch effdet.
# How names count a pyramid's cells and a head's convolutions, by kind.
_COUNTED = {
    "effdet": (r"^fpn\.cell\.(\d+)\.", r"^class_net\.conv_rep\.(\d+)\."),
    "automl": (r"^fpn_cells/cell_(\d+)/", r"^class_net/class-(\d+)/"),
    "automl-tf2": (r"^fpn_cells/cells/(\d+)/", r"^class_net/conv_ops/(\d+)/"),
    "zylo117": (r"^bifpn\.(\d+)\.", r"^classifier\.conv_list\.(\d+)\."),
    "torchvision": (r"^backbone\.(fpn)\.", r"^head\.classification_head\.conv\.(\d+)\."),
}


def rules_for(kind: str, spec: ModelSpec) -> list[Rule]:
    """One rule per tensor that weights of a kind have of a model, or of its backbone alone.

    Raises:
      ConversionError: its backbone or its pyramid isn't found in that kind of weights.
    """
    if kind in RULES and spec.pyramid not in _NECKS.get(kind, PYRAMIDS):
        home = pytorch_kind(spec)
        hint = f"; those of {home} do: --to={home}" if spec.pyramid in _NECKS.get(home, ()) else ""
        models = f"; they are of {', '.join(_MODELS[kind])}" if kind in _MODELS else ""
        raise ConversionError(f"weights of {kind} have no pyramid '{spec.pyramid}'{hint}{models}")
    return list(RULES[kind](spec) if kind in RULES else backbone_rules(kind, spec.backbone))


def pytorch_kind(spec: ModelSpec) -> str:
    """The kind of PyTorch weights that has a model's pyramid: 'effdet', or one that is no node list."""
    return next((kind for kind, names in _NECKS.items() if spec.pyramid in names), "effdet")


def guess_spec(
    weights: Weights, name: str = "", *, among: Sequence[str] = (), **changes: Any
) -> ModelSpec:
    """The spec of a detector's weights.

    In this order: the model that is `name`d; the one that the file names; the one whose names and
    widths the tensors have. A pyramid or heads of another width or depth than its model's are
    measured. Where nothing names the model, weights of PyTorch's effdet without redundant biases are
    taken for one of its own (`efficientdet_d0`), which pad symmetrically. torchvision's with frozen
    batch normalisations get the epsilon 0 of its published detector.

    Args:
      weights: of a whole detector.
      name: of the model, as here ('efficientdet-d0') or in PyTorch's effdet ('tf_efficientdet_d0').
      among: models to compare with, if not all that such weights may be of.
      **changes: further `ModelSpec` fields. The number of classes is the weights'.

    Raises:
      ConversionError: no model fits (the closest is named), or more than one does.
    """
    if weights.backbone_only:
        raise ConversionError(
            f"'{weights.path}' holds a backbone alone; train a detector from it: "
            f"--config.init={weights.path}"
        )
    if weights.spec and not name:
        return changed_spec(weights.spec, **changes)
    named, flavour = named_model(name or weights.architecture) or (name, _flavour(weights))
    among = among or _MODELS.get(weights.kind, MODELS)
    models = (named,) if name or (named in among) else among
    closest, fits = _closest(weights, _specs(weights, models, flavour))
    if len(closest) > 1 and fits:
        fitting = ", ".join(spec.name for spec in closest)
        raise ConversionError(
            f"'{weights.path}' fits {fitting}, which differ in image size and anchors only; say "
            f"which: --model={closest[0].name}"
        )
    return changed_spec(closest[0], num_classes=_num_classes(weights, closest[0]), **changes)


def named_model(name: str) -> tuple[str, dict[str, Any]] | None:
    """A model by its name here or in PyTorch's effdet, and the fields that the name decides.

    'efficientdet_d0' pads symmetrically and has another epsilon in the backbone; 'tf_…', and all
    models here, pad 'same'. None if it is no such name.
    """
    if name in _QUAD:
        close, changes = _QUAD[name]
        return close, changes | named_model(close.replace("-", "_"))[1]
    found = re.fullmatch(r"(tf_)?efficientdet([-_])(d\dx?|lite\dx?)(_ap)?", name)
    if not found or f"efficientdet-{found[3]}" not in MODELS:
        return None
    own = found[2] == "_" and not found[1]
    flavour = {**PYTORCH} if own else {key: getattr(ModelSpec, key) for key in PYTORCH}
    del flavour["redundant_bias"]  # That is what the tensors say.
    return f"efficientdet-{found[3]}", flavour | (ADVPROP if found[4] else {})


def _flavour(weights: Weights) -> Mapping[str, Any]:
    if weights.kind == "torchvision" and weights.frozen_norms:
        return {"backbone_epsilon": 0.0}
    return {} if _redundant_bias(weights) else PYTORCH


def _redundant_bias(weights: Weights) -> bool:
    return weights.kind != "effdet" or any(
        re.search(r"^class_net\.conv_rep\.0\.conv_pw\.bias$", name) for name in weights.tensors
    )


def _specs(weights: Weights, models: Sequence[str], flavour: Mapping[str, Any]) -> list[ModelSpec]:
    fields = {**flavour, "redundant_bias": _redundant_bias(weights)}
    try:
        return [model_spec(name, **fields) for name in models]
    except ValueError as error:
        raise ConversionError(str(error)) from error


def changed_spec(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """The spec with other fields.

    Raises:
      ConversionError: it can't be, such as an image size that doesn't go down to the last level.
    """
    try:
        return dataclasses.replace(spec, **changes)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _closest(weights: Weights, specs: Sequence[ModelSpec]) -> tuple[list[ModelSpec], bool]:
    """Those of `specs` that differ least from a detector's weights; whether not at all.

    Where none has the tensors, they are compared once more with the widths and depths measured.
    """
    differing = {spec: _difference(weights, spec) for spec in specs}
    fewest = min(differing.values())
    closest = [spec for spec in specs if differing[spec] == fewest]
    if fewest:
        measured = {spec: _measured(weights, spec) for spec in specs}
        fitting = [spec for spec in specs if not _difference(weights, measured[spec])]
        if fitting:
            changed = {spec: len(changed_fields(measured[spec], spec)) for spec in fitting}
            least = min(changed.values())
            return [measured[spec] for spec in fitting if changed[spec] == least], True
    return closest, fewest == 0


def _difference(weights: Weights, spec: ModelSpec) -> int:
    """How many names only one side has; if none, how many of the telling widths are different."""
    try:
        rules = rules_for(weights.kind, spec)
    except ConversionError:
        rules = []  # That program has no such backbone: not a name is the same.
    names = {name for rule in rules for name in rule.names}
    return len(names ^ set(weights.tensors)) or _wrong_widths(weights, rules, spec)


def _measured(weights: Weights, spec: ModelSpec) -> ModelSpec:
    """The spec with the graph, the width, the depths and the kind of fusion that the tensors have."""
    cells, depth, nodes = (
        len({found[1] for name in weights.tensors if (found := re.search(pattern, name))})
        for pattern in (*_COUNTED[weights.kind], _NODES)
    )
    graphs = {
        len(PYRAMIDS[graph](spec.min_level, spec.max_level)): graph
        for graph, _ in pytorch.FPN_NAMES
    }
    spec = dataclasses.replace(spec, pyramid=graphs.get(nodes, spec.pyramid))
    rules = {rule.path: rule for rule in rules_for(weights.kind, spec)}
    # The pyramid's width is what the class prediction's first convolution has as input.
    layer, axis = ("depthwise/", -1) if spec.conv == "separable" else ("", -2)
    rule = rules[f"params/{_HEAD}{layer}kernel"]
    width = weights.tensors.get(rule.names[0])
    weighted = spec if spec.fusion != "sum" else dataclasses.replace(spec, fusion="fast")
    fusions = (r for r in rules_for(weights.kind, weighted) if r.path.endswith("fusion/weights"))
    fusion = next(fusions, None)
    changes = {
        "pyramid_cells": max(1, cells),
        "head_depth": max(1, depth),
        "fusion": weighted.fusion if fusion and fusion.names[0] in weights.tensors else "sum",
    }
    if width is not None:
        changes["pyramid_width"] = rule.from_source([width]).shape[axis]
    return dataclasses.replace(spec, **changes)


def changed_fields(spec: ModelSpec, published: ModelSpec) -> dict[str, tuple[Any, Any]]:
    """{field: (its value, the published one)} where a model isn't as published."""
    return {
        field.name: (value, other)
        for field in dataclasses.fields(ModelSpec)
        if (value := getattr(spec, field.name)) != (other := getattr(published, field.name))
    }


def _wrong_widths(weights: Weights, rules: list[Rule], spec: ModelSpec) -> int:
    """How many of the telling widths aren't the spec's; all names are there."""
    expected = {
        **names_of(spec.backbone).widths(spec.backbone),
        f"params/class_head/{kernel_path(spec.conv, 'conv_0')}/kernel": spec.pyramid_width,
    }
    found = {
        rule.path: rule.from_source([weights.tensors[name] for name in rule.names]).shape[-1]
        for rule in rules
        if rule.path in expected
    }
    return sum(found[path] != width for path, width in expected.items())


def _num_classes(weights: Weights, spec: ModelSpec) -> int:
    path = f"params/class_head/{kernel_path(spec.conv, 'predict')}/bias"
    rule = next(rule for rule in rules_for(weights.kind, spec) if rule.path == path)
    bias = weights.tensors.get(rule.names[0])
    if bias is None or len(bias) % spec.anchors_per_cell:
        raise ConversionError(
            f"'{weights.path}': the class head's bias '{rule.names[0]}' is "
            + ("missing" if bias is None else f"{len(bias)} long, no multiple of 9 anchors")
        )
    return len(bias) // spec.anchors_per_cell


def detector_variables(weights: Weights, spec: ModelSpec) -> dict[str, Any]:
    """Variables `{'params', 'batch_stats'}` of a whole detector, every tensor accounted for.

    Raises:
      ConversionError: a tensor is missing, left over or misshapen; both sides are listed.
    """
    return _fit(weights, spec, abstract_shapes(spec))


def backbone_variables(weights: Weights, spec: ModelSpec) -> dict[str, Any]:
    """The backbone's part of the variables, from ImageNet weights.

    Raises:
      ConversionError: they are of another backbone.
    """
    shapes = {
        path: leaf
        for path, leaf in abstract_shapes(spec).items()
        if path.split("/")[1] == "backbone"
    }
    return _fit(weights, spec, shapes)


def _fit(weights: Weights, spec: ModelSpec, shapes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return to_variables(weights.tensors, rules_for(weights.kind, spec), shapes)
    except ConversionError as error:
        what, looks = spec.backbone, ""
        if not weights.backbone_only:
            models = _MODELS.get(weights.kind, MODELS)
            specs = _specs(weights, models, _flavour(weights))
            what, closest = spec.name, _closest(weights, specs)[0][0].name
            looks = f" (it looks like {closest})" if closest != what else ""
        raise ConversionError(f"'{weights.path}' isn't {what}{looks}: {error}") from error


def fresh_class_head(
    variables: dict[str, Any], spec: ModelSpec, *, seed: int = 0
) -> dict[str, Any]:
    """The variables with a newly initialised class prediction of `spec.num_classes`."""
    fresh = flatten(initial_variables(Detector(spec), seed))
    head = {path: array for path, array in fresh.items() if path.startswith(f"params/{_HEAD}")}
    return unflatten(flatten(variables) | head)
