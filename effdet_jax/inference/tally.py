"""What became of the images of a run, counted and told at its end."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from effdet_jax.inference.result import Result
from effdet_jax.inference.video import SUFFIXES as VIDEOS

_MOST_NAMES = 5


@dataclasses.dataclass
class Tally:
    """What became of the images of a run.

    Attributes:
      score_threshold: of what is counted as detections.
      best_scores: of the images and videos, by path.
      detections: their number.
      frames: of videos.
      broken: paths of what can't be read.
      masks: whether masks were found.
      interrupted: whether Ctrl-C ended the run.
    """

    score_threshold: float
    best_scores: dict[str, float] = dataclasses.field(default_factory=dict)
    detections: int = 0
    frames: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)
    masks: bool = False
    interrupted: bool = False

    def add(self, path: str, result: Result, shown: Result, frames: int = 0):
        """Counts an image, or a frame of a video."""
        best = float(np.max(result.scores, initial=0.0))
        self.best_scores[path] = max(best, self.best_scores.get(path, 0.0))
        self.detections += len(shown)
        self.frames += frames
        self.masks |= result.mask is not None

    def line(self, path: str, shown: Result) -> str:
        """The line to print of an image."""
        found = len(shown) or shown.mask is not None
        but = "" if found else f"; the best score was {self.best_scores[path]:.2g}"
        return f"{path}: {shown.summary()}{but}"

    def lines(self, planned: int, skipped: Sequence[str], output: str) -> list[str]:
        """The end of a run: what was done and what wasn't."""
        done = len(self.best_scores)
        videos = sum(path.lower().endswith(VIDEOS) for path in self.best_scores)
        what = [f"{done - videos} images"] if done > videos or not videos else []
        what += [f"{videos} videos of {self.frames} frames"] if videos else []
        lines = [f"{', '.join(what)}: {self.detections} detections"]
        if skipped:
            lines.append(f"skipped {len(skipped)} files: {', '.join(_listed(skipped))}")
        if self.broken:
            lines.append(f"not readable {len(self.broken)}: {', '.join(_listed(self.broken))}")
        if self.interrupted:
            lines.append(
                f"stopped by Ctrl-C at {done} of {planned} files; what was found on them is in "
                f"'{output}'"
            )
        if done and not self.detections and not self.masks:
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


def _listed(names: Sequence[str]) -> list[str]:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return [*names[:_MOST_NAMES], *([f"and {more} more"] if more > 0 else [])]
