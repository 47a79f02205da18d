"""What a model is made of, counted without running it: parameters, multiply-adds, anchors, shapes."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables, describe
from effdet_jax.spec import ModelSpec


def summarize(spec: ModelSpec) -> dict[str, Any]:
    """Counts of a model at its own image size, batch 1, as plain JSON types.

    `parameters` (trainable), `multiply_adds` and `outputs` have one entry per part of the model and
    a `total`; `anchors` one per level and a `total`; `activations` the shape of each part's output
    per level. Outputs are the values that convolutions and matrix products put out; multiply-adds
    are these times the products summed in each.
    """
    model = Detector(spec)
    params = abstract_variables(model)["params"]
    description = describe(model)
    parts = [path[0] for path in description.modules if len(path) == 1 and path[0] in params]
    adds, outputs = count_products(model)
    parameters = {part: _sizes(params[part]) for part in parts}
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "parameters": _with_total(parameters),
        "multiply_adds": _with_total({part: adds[part] for part in parts}),
        "outputs": _with_total({part: outputs[part] for part in parts}),
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


def count_products(model: Detector) -> tuple[Counter[str], Counter[str]]:
    """(multiply-adds, output values) of all convolutions and matrix products, per part.

    Read from the traced program of inference, so that every module's count, whatever it is built
    of. Where platforms take different forms, the one with most multiply-adds counts: on a CPU
    slices stand in for a convolution.
    """
    variables = abstract_variables(model)
    images = jax.ShapeDtypeStruct((1, *model.spec.image_size, 3), jnp.float32)
    # A function of its own: jax would not trace one again that it has seen.
    program = jax.make_jaxpr(lambda variables, x: model.apply(variables, x))(variables, images)
    adds: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for scope, products, values in _products(program.jaxpr, ()):
        # Flax names scopes by module: ('Detector', 'backbone', 'stem_conv').
        part = next((name for name in scope if name in variables["params"]), "")
        adds[part] += products
        outputs[part] += values
    return adds, outputs


def _products(
    jaxpr: core.Jaxpr, scope: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(scope, multiply-adds, output values) of every convolution and product of a program."""
    for equation in jaxpr.eqns:
        inner = (*scope, *str(equation.source_info.name_stack).split("/"))
        kind = equation.primitive.name
        if kind in ("conv_general_dilated", "dot_general"):
            values = math.prod(equation.outvars[0].aval.shape)
            yield inner, values * _summed(equation), values
        elif kind == "cond":
            branches = [list(_products(b.jaxpr, inner)) for b in equation.params["branches"]]
            yield from max(branches, key=lambda rows: sum(products for _, products, _ in rows))
        else:
            times = equation.params["length"] if kind == "scan" else 1
            for part in _programs_in(equation.params):
                for where, products, values in _products(part, inner):
                    yield where, times * products, times * values


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
