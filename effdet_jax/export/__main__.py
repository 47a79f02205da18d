"""Writes a trained detector as a file for other programs and proves that it computes the same.

python -m effdet_jax.export CHECKPOINT OUT.stablehlo

CHECKPOINT is a workdir of a training run, a converted folder or weights, as `ed.load` takes them.
The ending of OUT chooses the format. `OUT.stablehlo.json` has what the file has no place for: class
names, image size, the letterbox rule, thresholds, versions.
"""

import json
import os
from collections.abc import Sequence

from absl import flags

from effdet_jax.cli import run
from effdet_jax.detection.postprocess import NMS_METHODS
from effdet_jax.export.detector import NO_NMS, create_function, describe
from effdet_jax.export.formats import format_of
from effdet_jax.export.verify import (
    BATCH_SIZES,
    Comparison,
    ExportError,
    compare,
    rendered_batches,
    run_here,
)
from effdet_jax.files import put_in_place
from effdet_jax.inference.load import load


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "nms": flags.DEFINE_enum(
            "nms",
            "hard",
            [*NMS_METHODS, NO_NMS],
            "'gaussian' is soft-NMS; 'none' gives the box and scores of every anchor",
        ),
        "score_threshold": flags.DEFINE_float(
            "score_threshold", 0.0, "least score of a detection", 0.0, 1.0
        ),
        "iou_threshold": flags.DEFINE_float("iou_threshold", 0.5, "of hard NMS", 0.0, 1.0),
        "max_detections": flags.DEFINE_integer(
            "max_detections", 100, "rows per image", lower_bound=1
        ),
        "overwrite": flags.DEFINE_bool("overwrite", False, "replace OUT"),
    }


def main(paths: Sequence[str], *, nms: str, overwrite: bool, **options: float) -> int:
    if len(paths) != 2:
        raise ExportError(
            f"{len(paths)} paths given: python -m effdet_jax.export CHECKPOINT OUT.stablehlo"
        )
    checkpoint, out = paths
    file_format = format_of(out)
    model, variables = load(checkpoint, dtype="float32")
    height, width = model.spec.image_size
    print(f"model      {model.spec.name} at {height}×{width}, {model.spec.num_classes} classes")
    function = create_function(model, variables, method=nms, **options)
    with (
        put_in_place(out, overwrite=overwrite) as file_aside,
        put_in_place(f"{out}.json", overwrite=overwrite) as notes_aside,
    ):
        notes = file_format.write(file_aside, function, model.spec.image_size)
        size = os.path.getsize(file_aside) / 1e6
        print(f"written    {size:.1f} MB; reading it back …", flush=True)
        batches = rendered_batches(model.spec.image_size)
        there = file_format.run(file_aside, batches)
        found = compare(run_here(function, batches), there, file_format.tolerance)
        _judge(out, found, file_format.tolerance, what="anchors" if nms == NO_NMS else "detections")
        with open(notes_aside, "w", encoding="utf-8") as file:
            json.dump({**describe(model, method=nms, **options), **notes}, file, indent=1)
    print(f"in place   {out}, {out}.json")
    return 0


def _judge(out: str, found: Comparison, tolerance: float, what: str):
    share = 100 * found.equal / max(found.rows, 1)
    sizes = " and ".join(str(size) for size in BATCH_SIZES)
    line = (
        f"{found.equal} of {found.rows} {what} equal ({share:.1f}%), largest difference "
        f"{found.difference:.2g}, batches of {sizes} rendered images"
    )
    if found.difference > tolerance:
        raise ExportError(f"'{out}' computes something else than the model: {line}; it was removed")
    print(f"verified   {line}")
    if not found.rows:
        print("warning    nothing was found on them: a lower --score_threshold proves more")


if __name__ == "__main__":
    run(main, define_flags, arguments="paths")
