"""Detections on image files: a JSON and drawn pictures.

python -m effdet_jax.predict IMAGES… --checkpoint=runs/shapes --output=found

IMAGES are files, folders or patterns. `found/detections.json` has COCO result rows with class names
and file names; `found/NAME.jpg` the picture.
"""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
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
    predictor = Predictor(
        model,
        variables,
        batch_size=min(batch_size, len(files)),
        score_threshold=score_threshold,
    )
    rows, broken = [], 0
    for start in range(0, len(files), batch_size):
        read = dict(_read(files[start : start + batch_size], model.spec.intensity))
        broken += len(files[start : start + batch_size]) - len(read)
        if not read:
            continue
        found = predictor(list(read.values()))
        for number, (name, image) in enumerate(read.items()):
            some = _rows(name, found[number], model.class_names)
            print(f"{name}: {len(some)} detections", flush=True)
            rows += some
            if pictures:
                picture = render(
                    image, found[number], model.class_names, score_threshold=score_threshold
                )
                _save_picture(picture, output, name)
    write_results(os.path.join(output, "detections.json"), rows)
    return 1 if broken else 0


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
