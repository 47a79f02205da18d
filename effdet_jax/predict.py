"""Detections on image files: rows as they come, a file in a known format, drawn pictures.

python -m effdet_jax.predict IMAGES… --checkpoint=runs/shapes --output=found

IMAGES are files, folders with all that is below them, or patterns. `found/detections.jsonl` gets a
line per image as soon as it is done, `found/detections.json` has COCO result rows with class names
and file names, `found/NAME.jpg` is the picture. Only what predict wrote is ever overwritten.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO

import numpy as np
from absl import flags
from tqdm import tqdm

from effdet_jax.cli import INTERRUPTED, run
from effdet_jax.data.example import DataError
from effdet_jax.data.images import Intensity, read_image
from effdet_jax.inference.inputs import Inputs, find_inputs, listed
from effdet_jax.inference.load import load
from effdet_jax.inference.outputs import FORMATS, ROWS, OutputFolder, Outputs
from effdet_jax.inference.predictor import SCORE_THRESHOLD, Predictor, stored_score_threshold
from effdet_jax.inference.result import Result, save_picture
from effdet_jax.model.detector import Detector
from effdet_jax.run.memory import memory_explained

BAR_FROM = 20  # Images: less is no long work.


def define_flags() -> dict[str, flags.FlagHolder]:
    return {
        "checkpoint": flags.DEFINE_string(
            "checkpoint", None, "workdir, converted folder or weights", required=True
        ),
        "output": flags.DEFINE_string("output", "detections", "folder for rows and pictures"),
        "kind": flags.DEFINE_enum("format", "coco", list(FORMATS), "of the detections' file"),
        "score_threshold": flags.DEFINE_float(
            "score_threshold",
            None,
            "least score of a detection; if not given, the one of the best F1 in validation where "
            f"the checkpoint knows it, else {SCORE_THRESHOLD}",
            0.0,
            1.0,
        ),
        "dtype": flags.DEFINE_enum(
            "dtype", None, ["float32", "bfloat16"], "of the computation; the run's if not given"
        ),
        "batch_size": flags.DEFINE_integer("batch_size", 8, "images at a time", lower_bound=1),
        "pictures": flags.DEFINE_bool("pictures", True, "whether to draw pictures"),
    }


class Target(NamedTuple):
    """An image and where its files go, names in the output folder; '' is no file.

    Attributes:
      path: of the image.
      labels: name of its file of labels.
      picture: name of its picture.
    """

    path: str
    labels: str
    picture: str


def main(
    images: Sequence[str],
    checkpoint: str,
    output: str,
    kind: str,
    score_threshold: float | None,
    dtype: str | None,
    batch_size: int,
    pictures: bool,
) -> int:
    inputs = find_inputs(images)
    targets = plan_targets(inputs, kind, pictures)
    planned = [ROWS, *FORMATS[kind].files, *(name for one in targets for name in one[1:] if name)]
    folder = OutputFolder(output, planned, inputs.paths)
    model, variables = load(checkpoint, dtype=dtype)
    score_threshold, reason = choose_threshold(score_threshold, model)
    print(f"score_threshold {score_threshold:g}: {reason}")
    # Whatever its score: where nothing reaches the threshold, the best score is told.
    batch_size = min(batch_size, len(targets))
    predictor = Predictor(model, variables, batch_size=batch_size, score_threshold=0.0)
    tally = Tally(score_threshold)
    with Outputs(folder, kind, predictor.class_names) as outputs, _progress(len(targets)) as bar:
        try:
            for batch in _batches(targets, batch_size, model.spec.intensity, tally, bar):
                for target, result in _detect(predictor, batch):
                    shown = result.above(score_threshold)
                    outputs.add(shown, target.labels)
                    if target.picture:
                        save_picture(shown.draw(), folder.claim(target.picture))
                    _say(tally.add(target.path, result, shown))
                    bar.update()
        except KeyboardInterrupt:
            tally.interrupted = True
    print("\n".join(tally.lines(len(targets), inputs.skipped, output)), flush=True)
    return INTERRUPTED if tally.interrupted else 1 if tally.broken else 0


def plan_targets(inputs: Inputs, kind: str, pictures: bool) -> list[Target]:
    """Where the files of every image go: no two share one."""
    nothing = ("",) * len(inputs.paths)
    drawn = inputs.outputs(".jpg") if pictures else nothing
    labels = nothing
    if per_image := FORMATS[kind].per_image:
        folder, ending = per_image
        labels = tuple(f"{folder}/{name}" for name in inputs.outputs(ending))
    return [Target(*row) for row in zip(inputs.paths, labels, drawn)]


def choose_threshold(given: float | None, model: Detector) -> tuple[float, str]:
    """The score threshold and where it is from."""
    if given is not None:
        return given, "as asked"
    stored = stored_score_threshold(model)
    if stored is not None:
        return stored, "F1 was best there in validation; --score_threshold=… sets another"
    return SCORE_THRESHOLD, "the checkpoint knows no better one; --score_threshold=… sets another"


def _progress(total: int) -> tqdm:
    """A bar on a terminal's stderr, below the lines; nothing elsewhere, and nothing for few images."""
    few = total < BAR_FROM
    return tqdm(total=total, unit="image", disable=few or not sys.stderr.isatty(), smoothing=0.1)


def _say(line: str, file: TextIO | None = None):
    """Prints a line above the bar."""
    with tqdm.external_write_mode():
        print(line, file=file, flush=True)


def _batches(
    targets: Sequence[Target], size: int, intensity: Intensity, tally: "Tally", bar: tqdm
) -> Iterator[list[tuple[Target, np.ndarray]]]:
    """The images that can be read, `size` at a time; the others are named and counted."""
    batch = []
    for target in targets:
        try:
            batch.append((target, read_image(target.path, intensity)))
        except DataError as error:
            _say(f"error: {error}", sys.stderr)
            tally.broken.append(target.path)
            bar.update()
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _detect(
    predictor: Predictor, batch: Sequence[tuple[Target, np.ndarray]]
) -> Iterator[tuple[Target, Result]]:
    """Results of a batch, whatever their scores."""
    size = max(len(batch) // 2, 1)
    with memory_explained(lambda: [f"--batch_size={size} takes about half"]):
        found = predictor.detect([image for _, image in batch])
    for number, (target, image) in enumerate(batch):
        result = Result.of(found[number], predictor.class_names, image.shape[:2])
        yield target, dataclasses.replace(result, path=target.path, image=image)


@dataclasses.dataclass
class Tally:
    """What became of the images of a run.

    Attributes:
      score_threshold: of what is counted as detections.
      best_scores: of the images that were done, by path.
      detections: their number.
      broken: paths of the images that can't be read.
      interrupted: whether Ctrl-C ended the run.
    """

    score_threshold: float
    best_scores: dict[str, float] = dataclasses.field(default_factory=dict)
    detections: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def add(self, path: str, result: Result, shown: Result) -> str:
        """Counts an image; the line to print of it."""
        best = self.best_scores[path] = float(np.max(result.scores, initial=0.0))
        self.detections += len(shown)
        but = "" if len(shown) else f"; the best score was {best:.2g}"
        return f"{path}: {len(shown)} detections{but}"

    def lines(self, planned: int, skipped: Sequence[str], output: str) -> list[str]:
        """The end of a run: what was done and what wasn't."""
        done = len(self.best_scores)
        lines = [f"{done} images, {self.detections} detections"]
        if skipped:
            lines.append(f"skipped {len(skipped)} files: {', '.join(listed(skipped))}")
        if self.broken:
            lines.append(f"not readable {len(self.broken)}: {', '.join(listed(self.broken))}")
        if self.interrupted:
            lines.append(
                f"stopped by Ctrl-C after {done} of {planned} images; what was found on them is in "
                f"'{output}'"
            )
        if done and not self.detections:
            lines.append(_nothing_found(self.best_scores, self.score_threshold))
        return lines


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


if __name__ == "__main__":
    run(main, define_flags, arguments="images")
