"""What a model is made of: parameters, multiply-adds, shapes and anchors, without running it.

python -m effdet_jax.summary --config=configs/d3.py
"""

import json
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from effdet_jax.classes import COCO, ClassNames
from effdet_jax.cli import define_config_flag, run
from effdet_jax.experiment import Experiment
from effdet_jax.model.counts import summarize
from effdet_jax.spec import ModelSpec


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": define_config_flag(required=True),
        "as_json": flags.DEFINE_bool("json", False, "print one JSON object"),
        "num_classes": flags.DEFINE_integer(
            "num_classes", len(COCO), "K; the data isn't read", lower_bound=1
        ),
    }


def main(config: ConfigDict, as_json: bool, num_classes: int) -> int:
    class_names = ClassNames.numbered(num_classes)  # Only their number matters here.
    spec = Experiment.from_config(config, class_names=class_names).spec
    summary = summarize(spec)
    print(json.dumps(summary) if as_json else "\n".join(_lines(spec, summary)))
    return 0


def _lines(spec: ModelSpec, summary: dict[str, Any]) -> list[str]:
    height, width = spec.image_size
    title = (
        f"{spec.name}: {height}×{width}, {spec.num_classes} classes, {spec.backbone}, "
        + _pyramid(spec)
    )
    lines = [
        title,
        f"{'':12s}{'parameters':>14s}{'multiply-adds':>18s}",
    ]
    for part in summary["parameters"]:
        lines.append(
            f"{part:12s}{summary['parameters'][part]:14,d}{summary['multiply_adds'][part]:18,d}"
        )
    if "class_head" not in summary["activations"]:  # No boxes.
        return lines
    lines.append(f"{'':12s}{'anchors':>14s}   pyramid output     class logits")
    for level in [f"P{level}" for level in spec.levels]:
        pyramid = "×".join(str(side) for side in summary["activations"]["pyramid"][level][1:])
        logits = "×".join(str(side) for side in summary["activations"]["class_head"][level][1:])
        lines.append(f"{level:12s}{summary['anchors'][level]:14,d}   {pyramid:18s} {logits}")
    return [*lines, f"{'total':12s}{summary['anchors']['total']:14,d}"]


def _pyramid(spec: ModelSpec) -> str:
    if not spec.pyramid_cells:
        return f"{spec.pyramid_width} channels before pooling"
    return (
        f"{spec.pyramid_cells} × {spec.pyramid} of {spec.pyramid_width} channels ({spec.fusion} fusion), "
        f"heads {spec.head_depth} deep"
    )


if __name__ == "__main__":
    run(main, define_flags)
