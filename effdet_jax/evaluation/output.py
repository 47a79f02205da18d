"""An evaluation as files: its result rows, all numbers as JSON, and the classes as a table."""

import csv
import json
import os

from effdet_jax.evaluation.coco import write_results
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.files import DestinationError, text_in_place

METRICS, CLASSES = "metrics.json", "classes.csv"


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
    write_results(os.path.join(output, result.results_file), result.results)
    path = os.path.join(output, METRICS)
    with text_in_place(path) as file:
        json.dump(result.to_dict(), file, ensure_ascii=False)
    print(f"wrote {path}")
    path = os.path.join(output, CLASSES)
    with text_in_place(path, newline="") as file:
        table = csv.writer(file)
        columns, rows = result.table()
        table.writerows([columns, *rows])
    print(f"wrote {path}")
