"""An evaluation as files: COCO's result rows, all numbers as JSON, and the classes as a table."""

import csv
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from effdet_jax.evaluation.coco import write_results
from effdet_jax.evaluation.loop import Evaluation
from effdet_jax.files import DestinationError, put_in_place

DETECTIONS, METRICS, CLASSES = "detections.json", "metrics.json", "classes.csv"
_COLUMNS = ("name", "num_images", "num_boxes", "ap", "ap50", "ar", "best_f1", "threshold")


def check_output(output: str):
    """Before anything is computed.

    Raises:
      DestinationError: `output` can't be what `write_output` is to make of it.
    """
    is_file = output.endswith(".json")
    if is_file and os.path.isdir(output):
        raise DestinationError(f"--output={output} is a folder; give another name for the file")
    if not is_file and os.path.isfile(output):
        raise DestinationError(
            f"--output={output} is a file: give a folder, or a name that ends with .json"
        )


def write_output(output: str, result: Evaluation):
    """Writes an evaluation.

    Args:
      output: 'NAME.json' for the result rows alone; or a folder, which is made if need be. What an
        evaluation wrote there before is replaced.
    """
    if output.endswith(".json"):
        write_results(output, result.results)
        return
    write_results(os.path.join(output, DETECTIONS), result.results)
    path = os.path.join(output, METRICS)
    with put_in_place(path, overwrite=True) as new, open(new, "w", encoding="utf-8") as file:
        json.dump(as_dict(result), file, ensure_ascii=False)
    print(f"wrote {path}")
    path = os.path.join(output, CLASSES)
    with (
        put_in_place(path, overwrite=True) as new,
        open(new, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for one in result.analysis.classes:
            table.writerow([getattr(one, column) for column in _COLUMNS])
    print(f"wrote {path}")


def as_dict(result: Evaluation) -> dict[str, Any]:
    """All numbers as plain JSON types; null for what is no number.

    'summary' has COCO's twelve, 'loss' the total and parts, 'score_threshold' is the one of the best
    F1 or null, 'analysis' is of `analysis.Analysis.to_dict`.
    """
    return {
        "num_images": result.metrics.num_images,
        "num_boxes": result.metrics.num_boxes,
        "unreadable": list(result.unreadable),
        "summary": _finite(result.metrics.summary),
        "loss": _finite({name.removeprefix("loss/"): x for name, x in result.loss.items()}),
        "score_threshold": result.score_threshold,
        "analysis": result.analysis.to_dict(),
    }


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
