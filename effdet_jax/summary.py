"""What a model is made of: parameters, multiply-adds, shapes and anchors, without running it.

python -m effdet_jax.summary --config=configs/d3.py
"""

import json
import math
from collections import Counter
from typing import Any

import jax
from absl import flags
from flax import linen as nn
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.checkpoint import abstract_variables
from effdet_jax.command import define_config_flag, run
from effdet_jax.labels import COCO
from effdet_jax.model.detector import Detector
from effdet_jax.model.layers import Conv, DepthwiseConv
from effdet_jax.targets import spec_anchors
from effdet_jax.variants import ModelSpec

PARTS = ("backbone", "pyramid", "class_head", "box_head")


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
        "num_classes": flags.DEFINE_integer(
            "num_classes", len(COCO), "K; the data isn't read", lower_bound=1
        ),
    }


def main(config: ConfigDict, as_json: bool, num_classes: int) -> int:
    spec = configs.spec_of(config, num_classes)
    summary = summarize(spec)
    print(json.dumps(summary) if as_json else "\n".join(_lines(spec, summary)))
    return 0


def summarize(spec: ModelSpec) -> dict[str, Any]:
    """Counts of a model at its own image size, batch 1, as plain JSON types.

    `parameters` (trainable) and `multiply_adds` have one entry per part and a `total`; `anchors`
    one per level and a `total`; `activations` the shape of each part's output per level.
    Multiply-adds are those of the convolutions: output values × inputs that each one sums.
    """
    parameters, adds, shapes = _trace(Detector(spec))
    counts = {part: sum(leaf.size for leaf in jax.tree.leaves(parameters[part])) for part in PARTS}
    anchors = {f"P{level}": a[..., 0].size for level, a in spec_anchors(spec).items()}
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "parameters": _with_total(counts),
        "multiply_adds": _with_total({part: adds[part] for part in PARTS}),
        "anchors": _with_total(anchors),
        "activations": shapes,
    }


def _with_total(counts: dict[str, int]) -> dict[str, int]:
    return {**counts, "total": sum(counts.values())}


def _trace(model: Detector) -> tuple[dict[str, Any], Counter[str], dict[str, Any]]:
    """Abstract parameters, multiply-adds and output shapes per part, from one abstract run."""
    adds: Counter[str] = Counter()
    shapes: dict[str, Any] = {}

    def count(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        module, path = context.module, context.module.path
        if context.method_name != "__call__" or not path:
            return outputs
        if isinstance(module, Conv):
            adds[path[0]] += math.prod(outputs.shape) * args[0].shape[-1] * module.kernel_size**2
        elif isinstance(module, DepthwiseConv):
            adds[path[0]] += math.prod(outputs.shape) * module.kernel_size**2
        elif len(path) == 1:
            shapes[path[0]] = {f"P{level}": list(x.shape) for level, x in outputs.items()}
        return outputs

    with nn.intercept_methods(count):
        variables = abstract_variables(model)
    return variables["params"], adds, shapes


def _lines(spec: ModelSpec, summary: dict[str, Any]) -> list[str]:
    height, width = spec.image_size
    title = (
        f"{spec.name}: {height}×{width}, {spec.num_classes} classes, {spec.backbone}, "
        f"{spec.pyramid_cells} × BiFPN of {spec.pyramid_width} channels ({spec.fusion} fusion), "
        f"heads {spec.head_depth} deep"
    )
    lines = [
        title,
        f"{'':12s}{'parameters':>14s}{'multiply-adds':>18s}",
    ]
    for part in (*PARTS, "total"):
        lines.append(
            f"{part:12s}{summary['parameters'][part]:14,d}{summary['multiply_adds'][part]:18,d}"
        )
    lines.append(f"{'':12s}{'anchors':>14s}   pyramid output     class logits")
    for level in [f"P{level}" for level in spec.levels]:
        pyramid = "×".join(str(side) for side in summary["activations"]["pyramid"][level][1:])
        logits = "×".join(str(side) for side in summary["activations"]["class_head"][level][1:])
        lines.append(f"{level:12s}{summary['anchors'][level]:14,d}   {pyramid:18s} {logits}")
    return [*lines, f"{'total':12s}{summary['anchors']['total']:14,d}"]


if __name__ == "__main__":
    run(main, define_flags)
