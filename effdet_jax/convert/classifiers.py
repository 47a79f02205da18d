"""ImageNet weights of other programs → a classifier: which one they are, and its variables."""

import dataclasses
from typing import Any

from effdet_jax.classifiers import CLASSIFIERS
from effdet_jax.convert.backbones import backbone_rules, names_of
from effdet_jax.convert.detectors import changed_spec, detector_variables, guess_spec
from effdet_jax.convert.readers import Weights
from effdet_jax.convert.rules import ConversionError, Rule, abstract_shapes, to_variables
from effdet_jax.spec import PYTORCH, ModelSpec, model_spec

_PREDICT = "params/classifier/predict/bias"


def classifier_rules(kind: str, backbone: str) -> list[Rule]:
    """One rule per tensor of a backbone with its classifier in weights of a kind.

    Raises:
      ConversionError: the classifier isn't known in that kind of weights.
    """
    names = names_of(backbone)
    if kind not in names.classifiers:
        raise ConversionError(
            f"'{backbone}' as a classifier isn't found in weights of {kind}, only of "
            f"{', '.join(names.classifiers)}"
        )
    return [*backbone_rules(kind, backbone), *names.classifiers[kind](backbone)]


def guess_classifier(weights: Weights) -> ModelSpec:
    """The spec of ImageNet weights: the classifier whose names and widths the tensors have.

    timm's own networks ('efficientnet_b0', without 'tf_') pad symmetrically and have another epsilon.

    Raises:
      ConversionError: it is none of `CLASSIFIERS`.
    """
    fitting = [name for name in CLASSIFIERS if _fits(weights, name)]
    if not fitting:
        raise ConversionError(
            f"'{weights.path}' is none of the classifiers that are known here: "
            f"{', '.join(CLASSIFIERS)}; a detector may start from its backbone: "
            f"--config.init={weights.path}"
        )
    own = weights.kind == "timm" and weights.architecture.startswith("efficientnet")
    flavour = {name: PYTORCH[name] for name in ("padding", "backbone_epsilon")} if own else {}
    rules = classifier_rules(weights.kind, fitting[0])
    (bias,) = next(rule.names for rule in rules if rule.path == _PREDICT)
    return model_spec(fitting[0], num_classes=len(weights.classifier[bias]), **flavour)


def _fits(weights: Weights, name: str) -> bool:
    try:
        rules = classifier_rules(weights.kind, name)
    except ConversionError:
        return False
    tensors = {**weights.tensors, **weights.classifier}
    if {tensor for rule in rules for tensor in rule.names} != set(tensors):
        return False
    widths = names_of(name).widths(name)
    found = {
        rule.path: rule.from_source([tensors[tensor] for tensor in rule.names]).shape[-1]
        for rule in rules
        if rule.path in widths
    }
    return found == widths


def classifier_variables(weights: Weights, spec: ModelSpec) -> dict[str, Any]:
    """Variables `{'params', 'batch_stats'}` of a classifier, every tensor accounted for.

    Args:
      spec: of the same backbone; the number of classes is the weights'.

    Raises:
      ConversionError: a tensor is missing, left over or misshapen; both sides are listed.
    """
    spec = dataclasses.replace(spec, num_classes=guess_classifier(weights).num_classes)
    tensors = {**weights.tensors, **weights.classifier}
    try:
        rules = classifier_rules(weights.kind, spec.backbone)
        return to_variables(tensors, rules, abstract_shapes(spec))
    except ConversionError as error:
        raise ConversionError(f"'{weights.path}' isn't {spec.name}: {error}") from error


def read_model(
    weights: Weights, name: str = "", **changes: Any
) -> tuple[ModelSpec, dict[str, Any]]:
    """Spec and variables of weights: a classifier's where they hold one, else a detector's.

    Args:
      name: of the detector, see `detectors.guess_spec`.
      **changes: further `ModelSpec` fields.

    Raises:
      ConversionError: they are of no model that is known.
    """
    if weights.backbone_only and weights.classifier and not name:
        spec = changed_spec(guess_classifier(weights), **changes)
        return spec, classifier_variables(weights, spec)
    spec = guess_spec(weights, name, **changes)
    return spec, detector_variables(weights, spec)
