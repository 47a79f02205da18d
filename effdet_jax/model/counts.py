"""What a model is made of, counted without running it: parameters, multiply-adds, anchors, shapes."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables, describe
from effdet_jax.ops.normalization import NORMALIZATION_SCOPE
from effdet_jax.ops.resample import nearest
from effdet_jax.spec import ModelSpec

# What TensorFlow's profiler counts once per output value. It counts no comparison and no transcendental
# function: an activation is the product in it, if there is one.
_ARITHMETIC = frozenset(("add", "add_any", "sub", "mul", "div"))


@dataclasses.dataclass(frozen=True)
class Products:
    """What a model computes for one image, each by part of the model.

    Attributes:
      multiply_adds: of convolutions and matrix products.
      outputs: values that these put out.
      profiled: half of what TensorFlow's profiler counts, from which the paper's FLOPs are: a
        multiply-add of a convolution is two operations, every other sum, product and quotient one,
        a pooled value as many as its window; normalisation is none, and nearest up-sampling one
        product per value, as the reference computed it.
    """

    multiply_adds: Mapping[str, int]
    outputs: Mapping[str, int]
    profiled: Mapping[str, float]


def summarize(spec: ModelSpec) -> dict[str, Any]:
    """Counts of a model at its own image size, batch 1, as plain JSON types.

    `parameters` (trainable), `multiply_adds`, `profiled` and `outputs` have one entry per part of
    the model and a `total`, see `Products`; `anchors` one per level and a `total`; `activations` the
    shape of each part's output per level.
    """
    model = Detector(spec)
    params = abstract_variables(model)["params"]
    description = describe(model)
    parts = [path[0] for path in description.modules if len(path) == 1 and path[0] in params]
    products = count_products(model)
    parameters = {part: _sizes(params[part]) for part in parts}
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "parameters": _with_total(parameters),
        "multiply_adds": _with_total({part: products.multiply_adds[part] for part in parts}),
        "profiled": _with_total({part: round(products.profiled[part]) for part in parts}),
        "outputs": _with_total({part: products.outputs[part] for part in parts}),
        "anchors": _with_total({f"P{n}": a[..., 0].size for n, a in spec.anchors().items()}),
        "activations": {
            part: {f"P{level}": list(x.shape) for level, x in levels.items()}
            for part, levels in description.features.items()
        },
    }


def count_parameters(model: Detector) -> int:
    """Trainable parameters."""
    return _sizes(abstract_variables(model)["params"])


def _sizes(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _with_total(counts: dict[str, int]) -> dict[str, int]:
    return {**counts, "total": sum(counts.values())}


def count_products(model: Detector) -> Products:
    """Counts of all that a model computes for one image, per part.

    Read from the traced program of inference, so that every module's count, whatever it is built
    of. Where platforms take different forms, the one with most multiply-adds counts: on a CPU
    slices stand in for a convolution or a pooling window.
    """
    variables = abstract_variables(model)
    images = jax.ShapeDtypeStruct((1, *model.spec.image_size, 3), jnp.float32)
    # A function of its own: jax would not trace one again that it has seen.
    program = jax.make_jaxpr(lambda variables, x: model.apply(variables, x))(variables, images)
    counts = Products(Counter(), Counter(), Counter())
    for scope, adds, values, others in _operations(program.jaxpr, ()):
        # Flax names scopes by module: ('Detector', 'backbone', 'stem_conv').
        part = next((name for name in scope if name in variables["params"]), "")
        counts.multiply_adds[part] += adds
        counts.outputs[part] += values
        counts.profiled[part] += adds + others / 2
    return counts


class _Operation(NamedTuple):
    scope: tuple[str, ...]
    multiply_adds: int = 0
    outputs: int = 0
    others: int = 0  # Operations of the profiler beside those of multiply-adds.


def _operations(jaxpr: core.Jaxpr, scope: tuple[str, ...]) -> Iterator[_Operation]:
    """What each operation of a program computes."""
    for equation in jaxpr.eqns:
        inner = (*scope, *str(equation.source_info.name_stack).split("/"))
        kind = equation.primitive.name
        if kind in ("conv_general_dilated", "dot_general"):
            values = _size(equation.outvars[0])
            yield _Operation(inner, values * _summed(equation), values)
        elif kind == "cond":
            branches = [list(_operations(b.jaxpr, inner)) for b in equation.params["branches"]]
            yield from max(branches, key=_cost)
        elif equation.params.get("name") == nearest.__name__:
            yield _Operation(inner, others=_size(equation.outvars[0]))
        elif others := _others(equation, inner):
            yield _Operation(inner, others=others)
        else:
            times = equation.params["length"] if kind == "scan" else 1
            for part in _programs_in(equation.params):
                for operation in _operations(part, inner):
                    yield _Operation(operation.scope, *(times * count for count in operation[1:]))


def _cost(operations: list[_Operation]) -> tuple[int, int]:
    """Multiply-adds and all else: the plain form of a pooling has most operations of its forms."""
    return sum(o.multiply_adds for o in operations), sum(o.others for o in operations)


def _others(equation: core.JaxprEqn, scope: tuple[str, ...]) -> int:
    """Operations that the profiler counts in an equation that is no convolution."""
    kind = equation.primitive.name
    if NORMALIZATION_SCOPE in scope:
        return 0  # One operation of TensorFlow, which its profiler doesn't count.
    if kind in _ARITHMETIC:
        return _size(equation.outvars[0])
    if kind == "reduce_sum":
        return _size(equation.invars[0])
    if kind == "reduce_window_max":
        return _size(equation.outvars[0]) * math.prod(equation.params["window_dimensions"])
    return 0


def _size(variable: core.Var) -> int:
    return math.prod(variable.aval.shape)


def _summed(equation: core.JaxprEqn) -> int:
    """How many products each output value is the sum of."""
    left, right = (variable.aval for variable in equation.invars[:2])
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(left.shape[axis] for axis in contracted)
    numbers = equation.params["dimension_numbers"]
    return math.prod(right.shape) // right.shape[numbers.rhs_spec[0]]


def _programs_in(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an operation calls."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
