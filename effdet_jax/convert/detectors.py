"""Weights of other programs → a detector: which model they are, and its variables."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from effdet_jax.convert import pytorch, tensorflow
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
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import initial_variables
from effdet_jax.spec import MODELS, PYTORCH, ModelSpec, model_spec

RULES: dict[str, Callable[[ModelSpec], Iterator[Rule]]] = {
    "effdet": pytorch.effdet_rules,
    "automl": tensorflow.automl_rules,
    "automl-tf2": tensorflow.automl_tf2_rules,
}
_HEAD = "class_head/predict/"


def rules_for(kind: str, spec: ModelSpec) -> list[Rule]:
    """One rule per tensor that weights of a kind have of a model, or of its backbone alone.

    Raises:
      ConversionError: its backbone isn't found in that kind of weights.
    """
    return list(RULES[kind](spec) if kind in RULES else backbone_rules(kind, spec.backbone))


def guess_spec(weights: Weights, name: str = "", **changes: Any) -> ModelSpec:
    """The spec of a detector's weights: the model whose names and widths they have.

    Args:
      weights: of a whole detector.
      name: of the model, if it is known; otherwise all of `list_models()` are compared.
      **changes: further `ModelSpec` fields. The number of classes is the weights'.

    Raises:
      ConversionError: no model fits (the closest is named), or more than one does.
    """
    if weights.backbone_only:
        raise ConversionError(
            f"'{weights.path}' holds a backbone alone; train a detector from it: "
            f"--config.init={weights.path}"
        )
    closest, fits = _closest(weights, (name,) if name else MODELS)
    if len(closest) > 1 and fits:
        fitting = ", ".join(spec.name for spec in closest)
        raise ConversionError(
            f"'{weights.path}' fits {fitting}, which differ in image size and anchors only; say "
            f"which: --model={closest[0].name}"
        )
    return changed_spec(closest[0], num_classes=_num_classes(weights, closest[0]), **changes)


def changed_spec(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """The spec with other fields.

    Raises:
      ConversionError: it can't be, such as an image size that doesn't go down to the last level.
    """
    try:
        return dataclasses.replace(spec, **changes)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _closest(weights: Weights, models: Sequence[str]) -> tuple[list[ModelSpec], bool]:
    """The specs of `models` that differ least from a detector's weights; whether not at all."""
    differing = {}
    for name in models:
        for flavour in ({}, PYTORCH) if weights.kind == "effdet" else ({},):
            try:
                spec = model_spec(name, **flavour)
            except ValueError as error:
                raise ConversionError(str(error)) from error
            try:
                rules = rules_for(weights.kind, spec)
            except ConversionError:
                rules = []  # That program has no such backbone: not a name is the same.
            names = {name for rule in rules for name in rule.names}
            wrong = len(names ^ set(weights.tensors))
            differing[spec] = wrong or _wrong_widths(weights, rules, spec)
    fewest = min(differing.values())
    return [spec for spec, wrong in differing.items() if wrong == fewest], fewest == 0


def _wrong_widths(weights: Weights, rules: list[Rule], spec: ModelSpec) -> int:
    """How many of the telling widths aren't the spec's; all names are there."""
    expected = {
        **names_of(spec.backbone).widths(spec.backbone),
        "params/class_head/conv_0/pointwise/kernel": spec.pyramid_width,
    }
    found = {
        rule.path: rule.from_source([weights.tensors[name] for name in rule.names]).shape[-1]
        for rule in rules
        if rule.path in expected
    }
    return sum(found[path] != width for path, width in expected.items())


def _num_classes(weights: Weights, spec: ModelSpec) -> int:
    path = f"params/{_HEAD}pointwise/bias"
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
            what, closest = spec.name, _closest(weights, MODELS)[0][0].name
            looks = f" (it looks like {closest})" if closest != what else ""
        raise ConversionError(f"'{weights.path}' isn't {what}{looks}: {error}") from error


def fresh_class_head(
    variables: dict[str, Any], spec: ModelSpec, *, seed: int = 0
) -> dict[str, Any]:
    """The variables with a newly initialised class prediction of `spec.num_classes`."""
    fresh = flatten(initial_variables(Detector(spec), seed))
    head = {path: array for path, array in fresh.items() if path.startswith(f"params/{_HEAD}")}
    return unflatten(flatten(variables) | head)
