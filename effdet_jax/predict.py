"""Detections on image files: a JSON and drawn pictures.

python -m effdet_jax.predict IMAGES… --checkpoint=runs/shapes --output=found

IMAGES are files, folders or patterns. `found/detections.json` has COCO result rows with class names
and file names; `found/NAME.jpg` the picture.
"""

import glob
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.cli import run
from effdet_jax.data.example import DataError
from effdet_jax.data.images import Intensity, decode_image
from effdet_jax.detection.postprocess import Detections
from effdet_jax.evaluation.coco import coco_results, write_results
from effdet_jax.inference.load import load
from effdet_jax.inference.predictor import Predictor
from effdet_jax.inference.render import render
from effdet_jax.run.memory import memory_explained

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "checkpoint": flags.DEFINE_string(
            "checkpoint", None, "workdir, converted folder or weights", required=True
        ),
        "output": flags.DEFINE_string("output", "detections", "folder for JSON and pictures"),
        "score_threshold": flags.DEFINE_float(
            "score_threshold", 0.3, "least score of a detection", 0.0, 1.0
        ),
        "dtype": flags.DEFINE_enum(
            "dtype", None, ["float32", "bfloat16"], "of the computation; the run's if not given"
        ),
        "batch_size": flags.DEFINE_integer("batch_size", 8, "images at a time", lower_bound=1),
        "pictures": flags.DEFINE_bool("pictures", True, "whether to draw pictures"),
    }


def main(
    images: Sequence[str],
    checkpoint: str,
    output: str,
    score_threshold: float,
    dtype: str | None,
    batch_size: int,
    pictures: bool,
) -> int:
    files = find_images(images)
    model, variables = load(checkpoint, dtype=dtype)
    # Whatever its score: where nothing reaches the threshold, the best score is told.
    predictor = Predictor(model, variables, batch_size=min(batch_size, len(files)))
    rows, best_scores, broken = [], {}, 0
    for start in range(0, len(files), batch_size):
        read = dict(_read(files[start : start + batch_size], model.spec.intensity))
        broken += len(files[start : start + batch_size]) - len(read)
        if not read:
            continue
        with memory_explained(lambda: [f"--batch_size={max(batch_size // 2, 1)} takes about half"]):
            found = predictor(list(read.values()))
        for number, (name, image) in enumerate(read.items()):
            one = found[number]
            some = _rows(name, above(one, score_threshold), model.class_names)
            best_scores[name] = float(np.max(one.scores, initial=0.0, where=one.valid))
            but = "" if some else f"; the best score was {best_scores[name]:.2g}"
            print(f"{name}: {len(some)} detections{but}", flush=True)
            rows += some
            if pictures:
                picture = render(image, one, model.class_names, score_threshold=score_threshold)
                _save_picture(picture, output, name)
    write_results(os.path.join(output, "detections.json"), rows)
    if best_scores and not rows:
        print(_nothing_found(best_scores, score_threshold))
    return 1 if broken else 0


def above(found: Detections, score_threshold: float) -> Detections:
    """The detections with at least that score; the others are padding."""
    return found.replace(valid=found.valid & (found.scores >= score_threshold))


def lower_threshold(best: float) -> float:
    """A round threshold, 1, 2 or 5 times a power of ten, well below a best score above 0."""
    power = 10.0 ** math.floor(math.log10(0.7 * best))
    digit = max(digit for digit in (1, 2, 5) if digit * power <= 0.7 * best)
    return float(f"{digit * power:.1g}")


def _nothing_found(best_scores: Mapping[str, float], score_threshold: float) -> str:
    """What to type where no image has a detection."""
    name, best = max(best_scores.items(), key=lambda item: item[1])
    told = f"nothing is above --score_threshold={score_threshold:g} on {len(best_scores)} images; "
    if best <= 0:
        return told + "there is no candidate at all: the weights may not be numbers"
    told += f"the best score was {best:.2g} ({name}): --score_threshold={lower_threshold(best):g}"
    if best < 0.01:
        told += (
            ". So low a score means that little was learned; python -m effdet_jax.evaluate "
            "--checkpoint=… says why"
        )
    return told


def _rows(name: str, found: Detections, class_names: ClassNames) -> list[dict[str, Any]]:
    """COCO result rows of one image, with its file name and the class names."""
    real = found[found.valid]
    rows = coco_results(name, real.boxes, real.scores, real.labels, class_names)
    return [
        {**row, "file_name": name, "category_name": class_names.names[label]}
        for row, label in zip(rows, real.labels)
    ]


def find_images(paths: Sequence[str]) -> list[str]:
    """Image files from files, folders (all images in them) and patterns.

    Raises:
      DataError: one of them is nothing.
    """
    if not paths:
        raise DataError("no images given: python -m effdet_jax.predict IMAGES… --checkpoint=…")
    files = []
    for path in paths:
        if os.path.isdir(path):
            found = [os.path.join(path, name) for name in sorted(os.listdir(path))]
            found = [name for name in found if name.lower().endswith(SUFFIXES)]
        else:
            found = [path] if os.path.isfile(path) else sorted(glob.glob(path))
        if not found:
            raise DataError(f"no image '{path}': no such file, and no folder with images")
        files += found
    return files


def _read(files: Sequence[str], intensity: Intensity) -> Iterator[tuple[str, np.ndarray]]:
    """(name, image) of the files that can be read; the others are named."""
    for name in files:
        try:
            with open(name, "rb") as file:
                yield name, decode_image(file.read(), intensity=intensity)
        except (OSError, DataError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)


def _save_picture(picture: np.ndarray, folder: str, name: str):
    os.makedirs(folder, exist_ok=True)
    stem = os.path.splitext(os.path.basename(name))[0]
    Image.fromarray(picture).save(os.path.join(folder, f"{stem}.jpg"), quality=92)


if __name__ == "__main__":
    run(main, define_flags, arguments="images")
