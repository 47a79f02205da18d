"""What a model is made of, counted without running it: parameters, multiply-adds, anchors, shapes."""

import math
from collections import Counter
from typing import Any

import jax

from effdet_jax.layers.convolution import Conv, DepthwiseConv
from effdet_jax.model.detector import Detector
from effdet_jax.model.efficientnet import MBConv
from effdet_jax.model.initialize import trace
from effdet_jax.spec import ModelSpec

PARTS = ("backbone", "pyramid", "class_head", "box_head")


def summarize(spec: ModelSpec) -> dict[str, Any]:
    """Counts of a model at its own image size, batch 1, as plain JSON types.

    `parameters` (trainable), `multiply_adds` and `outputs` have one entry per part and a `total`;
    `anchors` one per level and a `total`; `activations` the shape of each part's output per level.
    Outputs are the values that the convolutions put out, multiply-adds these × inputs that each one
    sums.
    """
    parameters, adds, outputs, shapes = _trace(Detector(spec))
    counts = {part: sum(leaf.size for leaf in jax.tree.leaves(parameters[part])) for part in PARTS}
    anchors = {f"P{level}": a[..., 0].size for level, a in spec.anchors().items()}
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "parameters": _with_total(counts),
        "multiply_adds": _with_total({part: adds[part] for part in PARTS}),
        "outputs": _with_total({part: outputs[part] for part in PARTS}),
        "anchors": _with_total(anchors),
        "activations": shapes,
    }


def _with_total(counts: dict[str, int]) -> dict[str, int]:
    return {**counts, "total": sum(counts.values())}


def _trace(
    model: Detector,
) -> tuple[dict[str, Any], Counter[str], Counter[str], dict[str, Any]]:
    """Abstract parameters, multiply-adds, outputs and their shapes per part, from an abstract run."""
    adds: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    shapes: dict[str, Any] = {}

    def count(call, args, kwargs, context):
        result = call(*args, **kwargs)
        module, path = context.module, context.module.path
        if context.method_name != "__call__" or not path:
            return result
        if isinstance(module, Conv | DepthwiseConv | MBConv):
            values = math.prod(result.shape)
            outputs[path[0]] += values
            if isinstance(module, Conv):
                adds[path[0]] += values * args[0].shape[-1] * module.kernel_size**2
            elif isinstance(module, DepthwiseConv):
                adds[path[0]] += values * module.kernel_size**2
            else:  # Its projection and its attention are no modules.
                attention = 2 * result.shape[0] * module.expanded * module.squeezed
                adds[path[0]] += values * module.expanded + attention
        elif len(path) == 1:
            shapes[path[0]] = {f"P{level}": list(x.shape) for level, x in result.items()}
        return result

    return trace(model, count)["params"], adds, outputs, shapes
