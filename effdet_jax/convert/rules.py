"""Name and layout rules between two checkpoints, and their strict application both ways."""

import dataclasses
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from effdet_jax.errors import UserError
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.spec import ModelSpec

SHOWN = 20  # Lines of an error that lists tensors.


class ConversionError(UserError):
    """Weights can't be read, or don't fit; the message says what was found and what to do."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One variable and where its values are in the source.

    Attributes:
      path: of the variable, 'params/backbone/stem_conv/kernel'.
      names: of its tensors in the source; more than one are scalars that make up a vector.
      axes: the source's axes in the variable's order, () where it is the same.
    """

    path: str
    names: tuple[str, ...]
    axes: tuple[int, ...] = ()

    def from_source(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The variable from the source's arrays, one per name: float32, contiguous."""
        array = np.stack(arrays) if len(self.names) > 1 else arrays[0]
        if self.axes and array.ndim == len(self.axes):
            array = array.transpose(self.axes)
        return np.array(array, np.float32, order="C")

    def to_source(self, array: np.ndarray) -> list[np.ndarray]:
        """The inverse: one array per name, contiguous."""
        if len(self.names) > 1:
            return [np.array(part) for part in array]
        if self.axes:
            array = array.transpose(np.argsort(self.axes))
        return [np.array(array, order="C")]


@dataclasses.dataclass(frozen=True)
class BackboneNames:
    """How other programs name the weights of a family of backbones.

    Attributes:
      variants: the family's backbones, as in `ModelSpec.backbone`.
      rules: by kind of weights: backbone → a rule per tensor.
      imagenet: kinds that hold such a backbone alone, each with the name, or the end of it after a
        '/', of a tensor that all of the kind and no others have.
      classifier: pattern of an ImageNet classifier's tensors, which no detector has.
      classifiers: by kind of weights: backbone → a rule per tensor of the classifier.
      widths: backbone → {path of a kernel: its output channels}, enough to tell backbones apart
        whose tensors have the same names.
      symmetric: kinds of `imagenet` whose networks all pad symmetrically, with epsilon 1e-5.
    """

    variants: Container[str]
    rules: Mapping[str, Callable[[str], Iterable[Rule]]]
    imagenet: Mapping[str, str]
    classifier: str
    widths: Callable[[str], Mapping[str, int]]
    classifiers: Mapping[str, Callable[[str], Iterable[Rule]]] = dataclasses.field(
        default_factory=dict
    )
    symmetric: Container[str] = ()


def abstract_shapes(spec: ModelSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all variables of a model by path 'params/…' and 'batch_stats/…'."""
    return flatten(abstract_variables(Detector(spec)))


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """{'params/backbone/…': array}."""
    return traverse_util.flatten_dict(dict(variables), sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def to_variables(
    tensors: Mapping[str, np.ndarray], rules: Iterable[Rule], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Variables `{'params': …, 'batch_stats': …}` of float32 arrays from a source's tensors.

    Args:
      tensors: source tensors by name.
      rules: one per variable.
      expected: {path: shape}, as from `abstract_shapes`.

    Raises:
      ConversionError: anything missing, left over or misshapen, on either side.
    """
    rules = list(rules)
    problems, flat = _unmatched(tensors, rules, expected), {}
    for rule in rules:
        if any(name not in tensors for name in rule.names):
            continue
        array = rule.from_source([tensors[name] for name in rule.names])
        shape = tuple(expected[rule.path].shape)
        if array.shape != shape:
            there = tuple(tensors[rule.names[0]].shape)
            problems.append(f"{rule.names[0]} is {there}, {rule.path} needs {shape}")
        flat[rule.path] = array
    if problems:
        raise ConversionError(
            f"{len(problems)} of {len(rules)} tensors don't fit this model:\n  {listed(problems)}"
        )
    return unflatten(flat)


def _unmatched(
    tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], expected: Mapping[str, Any]
) -> list[str]:
    """A line per tensor that only one of source, rules and model knows."""
    named = {name: rule.path for rule in rules for name in rule.names}
    unfilled = sorted(set(expected) - {rule.path for rule in rules})
    return [
        *(
            f"missing in the source: {name} (for {path})"
            for name, path in named.items()
            if name not in tensors
        ),
        *(
            f"not in this model: {name} {tuple(tensors[name].shape)}"
            for name in tensors
            if name not in named
        ),
        *(f"no rule fills: {path}" for path in unfilled),
    ]


def to_tensors(variables: Mapping[str, Any], rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """The source's tensors by name; the inverse of `to_variables`, bit for bit.

    Raises:
      ConversionError: a variable has no rule, or a rule no variable.
    """
    flat, rules = flatten(variables), list(rules)
    if wrong := sorted(set(flat) ^ {rule.path for rule in rules}):
        raise ConversionError(
            f"{len(wrong)} variables have no counterpart there:\n  {listed(wrong)}"
        )
    tensors = {}
    for rule in rules:
        tensors |= zip(rule.names, rule.to_source(np.asarray(flat[rule.path])))
    return tensors


def listed(lines: Sequence[str]) -> str:
    """Lines of an error, cut after the first few."""
    more = f"\n  … and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "\n  ".join(lines[:SHOWN]) + more
