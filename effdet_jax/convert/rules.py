"""Name and layout rules between two checkpoints, and their strict application."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from effdet_jax.checkpoint import abstract_variables
from effdet_jax.model.detector import Detector
from effdet_jax.variants import ModelSpec


class ConversionError(ValueError):
    """A tensor is missing, left over or of the wrong shape; the message lists both sides."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor: its path here ('params/backbone/stem_conv/kernel'), its name there, its layout.

    `to_ours` turns the other framework's layout into ours (a transpose or the identity).
    """

    ours: str
    theirs: str
    to_ours: Callable[[np.ndarray], np.ndarray] = lambda array: array


def abstract_shapes(spec: ModelSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of all variables of a model by path 'params/…' and 'batch_stats/…'."""
    return traverse_util.flatten_dict(abstract_variables(Detector(spec)), sep="/")


def apply_rules(
    tensors: Mapping[str, np.ndarray],
    rules: Iterable[Rule],
    expected: Mapping[str, Any],
    *,
    unneeded: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Variables `{'params': …, 'batch_stats': …}` of float32 arrays from another's tensors.

    Args:
      tensors: source tensors by name.
      rules: one per variable.
      expected: {our path: shape}, as from `abstract_shapes`.
      unneeded: names that carry nothing for us (PyTorch's batch counters).

    Raises:
      ConversionError: anything missing, left over or misshapen, on either side.
    """
    rules = list(rules)
    problems = []
    missing = [rule for rule in rules if rule.theirs not in tensors]
    problems += [f"missing in the source: {rule.theirs} (for {rule.ours})" for rule in missing]
    named = {rule.theirs for rule in rules}
    left_over = [name for name in tensors if name not in named and not unneeded(name)]
    problems += [f"not in this model: {name} {tensors[name].shape}" for name in left_over]
    unfilled = sorted(set(expected) - {rule.ours for rule in rules})
    problems += [f"no rule fills: {path}" for path in unfilled]
    flat = {}
    for rule in rules:
        if rule.theirs not in tensors:
            continue
        array = np.ascontiguousarray(rule.to_ours(tensors[rule.theirs]), np.float32)
        shape = tuple(expected[rule.ours].shape)
        if array.shape != shape:
            problems.append(f"{rule.theirs} is {array.shape}, {rule.ours} needs {shape}")
        flat[rule.ours] = array
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ConversionError(
            f"{len(problems)} of {len(rules)} tensors don't fit this model:\n  {shown}{more}"
        )
    return traverse_util.unflatten_dict(flat, sep="/")
