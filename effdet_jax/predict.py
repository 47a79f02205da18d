"""Detections on images and videos: rows as they come, a file in a known format, drawn pictures.

python -m effdet_jax.predict IMAGES… --checkpoint=runs/shapes --output=found

IMAGES are files, folders with all that is below them, or patterns. `found/detections.jsonl` gets a
line per image as soon as it is done, `found/detections.json` has COCO result rows with class names
and file names, `found/NAME.jpg` is the picture, `found/NAME.mp4` the video; `found/masks/NAME.png`
the mask, if the model makes masks. Only what predict wrote is ever overwritten.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from effdet_jax.classes import ClassNames
from effdet_jax.cli import INTERRUPTED, define_tta_flags, run
from effdet_jax.config import ConfigError
from effdet_jax.data.example import DataError
from effdet_jax.data.images import Intensity, read_image
from effdet_jax.data.locate import SUFFIXES as IMAGES
from effdet_jax.detection.objective import needs
from effdet_jax.inference.inputs import Inputs, find_inputs
from effdet_jax.inference.load import load
from effdet_jax.inference.outputs import FORMATS, ROWS, OutputFolder, Outputs
from effdet_jax.inference.predictor import SCORE_THRESHOLD, Predictor
from effdet_jax.inference.result import Result, save_picture
from effdet_jax.inference.tally import Tally
from effdet_jax.inference.tiles import Tiled
from effdet_jax.inference.video import SUFFIXES as VIDEOS
from effdet_jax.inference.video import Frame, Video, VideoError, VideoWriter, predict_frames
from effdet_jax.model.detector import Detector
from effdet_jax.run.memory import memory_explained

BAR_FROM = 20  # Images: less is no long work.
LINE_EVERY = 500  # Frames, where there is no bar.
MASKS = "masks"  # Folder of the masks.


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
        "pictures": flags.DEFINE_bool("pictures", True, "whether to draw pictures and videos"),
        "tile": flags.DEFINE_integer(
            "tile",
            0,
            "side of tiles that large images are cut into, pixels; 0: none",
            lower_bound=0,
        ),
        "overlap": flags.DEFINE_float("overlap", 0.2, "of neighbouring tiles, a share", 0.0, 0.9),
        **define_tta_flags(),
    }


class Target(NamedTuple):
    """An image or a video and where its files go, names in the output folder; '' is no file.

    Attributes:
      path: of it.
      is_video: or an image.
      labels: name of its file of labels; of a video, of the folder with one per frame.
      picture: name of its picture, or of the video with boxes drawn.
      mask: name of its mask, where the model makes masks; '' of a video.
    """

    path: str
    is_video: bool
    labels: str
    picture: str
    mask: str

    def files(self) -> list[str]:
        """What can be told before the frames of a video are counted."""
        return [name for name in (self.picture, "" if self.is_video else self.labels) if name]


def main(
    images: Sequence[str],
    checkpoint: str,
    output: str,
    kind: str,
    score_threshold: float | None,
    dtype: str | None,
    batch_size: int,
    pictures: bool,
    tile: int = 0,
    overlap: float = 0.2,
    tta: str = "",
    fusion: str | None = None,
) -> int:
    inputs = find_inputs(images, (*IMAGES, *VIDEOS))
    targets = plan_targets(inputs, kind, pictures)
    planned = [ROWS, *FORMATS[kind].files, *(name for one in targets for name in one.files())]
    folder = OutputFolder(output, planned, inputs.paths)
    model, variables = load(checkpoint, dtype=dtype)
    if tile and "masks" in needs(model.spec.objective):
        raise ConfigError("--tile is for boxes, and this model makes masks: leave it out")
    score_threshold, reason = choose_threshold(score_threshold, model, tta)
    print(f"score_threshold {score_threshold:g}: {reason}")
    if not tile and not any(target.is_video for target in targets):
        batch_size = min(batch_size, len(targets))
    # Whatever its score: where nothing reaches the threshold, the best score is told.
    options = {"batch_size": batch_size, "score_threshold": 0.0, "tta": tta, "fusion": fusion}
    predictor = Predictor(model, variables, **options)
    if predictor.tta:
        print(f"tta {predictor.tta.line(model.spec)}")
    detect = Tiled(predictor.detect, tile, overlap) if tile else predictor.detect
    tally = Tally(score_threshold)
    names = predictor.class_names
    with Outputs(folder, kind, names) as outputs:
        job = Job(names, model.spec.intensity, detect, batch_size, folder, outputs, tally)
        job.run(targets)
    print("\n".join(tally.lines(len(targets), inputs.skipped, output)), flush=True)
    return INTERRUPTED if tally.interrupted else 1 if tally.broken else 0


def plan_targets(inputs: Inputs, kind: str, pictures: bool) -> list[Target]:
    """Where the files of every image or video go: no two share one."""
    folder, ending = FORMATS[kind].per_image or ("", "")
    targets = []
    for path, name, stem in zip(inputs.paths, inputs.names, inputs.stems()):
        video = path.lower().endswith(VIDEOS)
        # Frames of clip.mp4 are apart from images in a folder named clip.
        labels = f"{folder}/{name if video else stem + ending}" if folder else ""
        picture = f"{stem}{'.mp4' if video else '.jpg'}" if pictures else ""
        mask = "" if video else f"{MASKS}/{stem}.png"
        targets.append(Target(path, video, labels, picture, mask))
    return targets


def choose_threshold(given: float | None, model: Detector, tta: str = "") -> tuple[float, str]:
    """The score threshold and where it is from."""
    if given is not None:
        return given, "as asked"
    if model.score_threshold == 0:
        return 0.0, "all that is predicted is shown; --score_threshold=… leaves the unlikely out"
    if model.score_threshold is not None:
        views = f" without other views; evaluate --tta={tta} tells theirs" if tta else ""
        return (
            model.score_threshold,
            f"F1 was best there in validation{views}; --score_threshold=… sets another",
        )
    return SCORE_THRESHOLD, "the checkpoint knows no better one; --score_threshold=… sets another"


@dataclasses.dataclass(frozen=True)
class Job:
    """What a run does with each image and each frame.

    Attributes:
      class_names: of the model.
      intensity: values of 16-bit and float images that become 0 and 255.
      detect: uint8 RGB arrays → their `Detections`, whatever the scores.
      batch_size: images, or frames, held at a time.
      folder, outputs: where to.
      tally: counts.
    """

    class_names: ClassNames
    intensity: Intensity
    detect: Callable[[Sequence[np.ndarray]], Any]
    batch_size: int
    folder: OutputFolder
    outputs: Outputs
    tally: Tally

    def run(self, targets: Sequence[Target]):
        """All images, then all videos, up to the end or to Ctrl-C, which the tally knows of."""
        try:
            self.run_images([target for target in targets if not target.is_video])
            for target in targets:
                if target.is_video:
                    self.run_video(target)
        except KeyboardInterrupt:
            self.tally.interrupted = True

    def find(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Results of images, whatever the scores."""
        half = max(self.batch_size // 2, 1)
        with memory_explained(lambda: [f"--batch_size={half} takes about half"]):
            found = self.detect(images)
        return [
            Result.of(found[number], self.class_names, image.shape[:2])
            for number, image in enumerate(images)
        ]

    def run_images(self, targets: Sequence[Target]):
        """Detects on images; those that can't be read are named and counted."""
        with _progress(len(targets), "image") as bar:
            for batch in self._batches(targets, bar):
                for (target, image), result in zip(batch, self.find([one for _, one in batch])):
                    result = dataclasses.replace(result, path=target.path, image=image)
                    shown = result.above(self.tally.score_threshold)
                    self.outputs.add(shown, target.labels, target.mask)
                    if target.picture:
                        save_picture(shown.draw(), self.folder.claim(target.picture))
                    self.tally.add(target.path, result, shown)
                    _say(self.tally.line(target.path, shown))
                    bar.update()

    def _batches(
        self, targets: Sequence[Target], bar: tqdm
    ) -> Iterator[list[tuple[Target, np.ndarray]]]:
        batch = []
        for target in targets:
            try:
                image = read_image(target.path, self.intensity)
            except DataError as error:
                _say(f"error: {error}", error=True)
                self.tally.broken.append(target.path)
                bar.update()
                continue
            batch.append((target, image))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def run_video(self, target: Target):
        """Detects on the frames of a video; what was found stays if it, or the run, breaks off."""
        try:
            video = Video(target.path)
        except VideoError as error:
            _say(f"error: {error}", error=True)
            self.tally.broken.append(target.path)
            return
        before = self.tally.detections
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(_progress(video.num_frames, "frame"))
            write = None
            if target.picture:
                path = self.folder.claim(target.picture)
                rate = video.frames_per_second
                writer = VideoWriter(path, video.size, rate, source=video.path, overwrite=True)
                write = stack.enter_context(writer).write
            for frame, result in predict_frames(self.find, video, self.batch_size):
                self._frame(target, frame, result, write)
                if bar.disable and bar.n and not bar.n % LINE_EVERY:
                    _say(f"{target.path}: {bar.n} of {video.num_frames} frames")
                bar.update()
        _say(f"{target.path}: {video.num_read} frames, {self.tally.detections - before} detections")
        if video.num_missing:
            _say(f"{target.path}: {video.num_missing} frames at its end can't be read", error=True)
            self.tally.broken.append(target.path)

    def _frame(
        self,
        target: Target,
        frame: Frame,
        result: Result,
        write: Callable[[np.ndarray, float], None] | None,
    ):
        result = dataclasses.replace(result, path=target.path, image=frame.image)
        shown = result.above(self.tally.score_threshold)
        labels = f"{target.labels}/{frame.number:06d}.txt" if target.labels else ""
        self.outputs.add(shown, labels, frame=frame.number, seconds=round(frame.seconds, 3))
        if write:
            write(shown.draw(), frame.seconds)
        self.tally.add(target.path, result, shown, frames=1)


def _progress(total: int, unit: str) -> tqdm:
    """A bar on a terminal's stderr, below the lines; none elsewhere, and none for few."""
    shown = total >= BAR_FROM and sys.stderr.isatty()
    return tqdm(total=total, unit=unit, disable=not shown)


def _say(line: str, *, error: bool = False):
    """Prints a line above the bar."""
    with tqdm.external_write_mode():
        print(line, file=sys.stderr if error else sys.stdout, flush=True)


if __name__ == "__main__":
    run(main, define_flags, arguments="images")
