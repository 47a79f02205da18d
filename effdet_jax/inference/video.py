"""Videos: frames with their times, upright and one after another; and pictures back into a video."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from effdet_jax.errors import UserError
from effdet_jax.files import DestinationError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts")
SUFFIXES += (".m2ts", ".3gp", ".flv")
# What OpenCV's wheels can write: the first is fast and for players, the second for browsers too.
CODECS = {".mp4": "mp4v", ".webm": "VP80"}
_MOST_PER_SECOND, _USUAL_PER_SECOND = 240.0, 25.0

# A damaged file would have its decoder print thousands of lines; here what is lost is counted.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoError(UserError):
    """A video can't be read or written."""


class Frame(NamedTuple):
    """One picture of a video.

    Attributes:
      number: from 0.
      seconds: when it is shown, from the file's time stamps; they grow from frame to frame.
      image: [H, W, 3] uint8 RGB.
    """

    number: int
    seconds: float
    image: np.ndarray


class Video:
    """The frames of a file, read one by one: `for frame in video`, as often as one likes.

    They are upright: a rotation that the file asks for, as phones write it, is applied.

    Args:
      path: of the file.

    Attributes:
      path: of the file.
      size: (height, width) of the first frame.
      frames_per_second: on average, as the file says; 25 if it says nothing sensible.
      num_frames: as the file says, which may be an estimate, 0 if it says nothing.
      num_read: frames that the last iteration gave.
      num_missing: frames at the end that the file speaks of and that couldn't be read, as in a
        download that broke off; known when an iteration has ended.

    Raises:
      VideoError: there is no such file, it is no video, or it has no frame that can be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if 0 < rate <= _MOST_PER_SECOND else _USUAL_PER_SECOND
        self.num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.num_read = self.num_missing = 0
        _, image = capture.read()
        capture.release()
        if image is None:
            raise VideoError(f"'{self.path}' has no frame that can be read; {_MEND}")
        self.size: tuple[int, int] = image.shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        capture = self._open()
        self.num_read = self.num_missing = 0
        seconds = -1.0
        try:
            while (image := capture.read()[1]) is not None:
                told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                seconds = told if told > seconds else seconds + 1 / self.frames_per_second
                frame = Frame(self.num_read, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                self.num_read += 1
                yield frame
            self.num_missing = self._missing(seconds)
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        if not os.path.isfile(self.path):
            raise VideoError(f"no video '{self.path}': no such file")
        capture = cv2.VideoCapture(self.path, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise VideoError(f"'{self.path}' can't be opened as a video; {_MEND}")
        return capture

    def _missing(self, last: float) -> int:
        """Frames after the last one; the times tell, for the number of frames may be an estimate."""
        end = (self.num_frames - 1.5) / self.frames_per_second
        return max(0, self.num_frames - self.num_read) if last < end else 0


_MEND = (
    "it is none, of an unknown codec, or was cut off before its index was written. "
    "ffmpeg -i IN OUT.mp4 says why, or mends it"
)


class VideoWriter:
    """Pictures into a video of a constant frame rate; a context manager, or `close()` it.

    What was written can be watched whatever ended the writing. Frames of a variable rate stay in
    time: one is repeated until the next is due, and of two that fall on the same place the later is
    shown. MPEG-4 (.mp4) is for players such as VLC or QuickTime; VP8 (.webm) also for browsers,
    and takes several times as long. There is no sound. Of an odd height or width the codecs leave
    out the last row or column.

    Args:
      path: of the file to make, .mp4 or .webm.
      size: (height, width) of the pictures; one of another size is resized.
      frames_per_second: of the new video.
      source: the video that the pictures come from, if any: it is never written over.
      overwrite: whether another file at `path` may be.

    Raises:
      DestinationError: `path` is the source, is there already, or can't be written.
      VideoError: of another kind than .mp4 and .webm.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: tuple[int, int],
        frames_per_second: float,
        *,
        source: str | os.PathLike | None = None,
        overwrite: bool = False,
    ):
        path = os.fspath(path)
        _check_destination(path, source, overwrite)
        codec = CODECS[os.path.splitext(path)[1].lower()]
        self._size, self._rate = size, frames_per_second
        self._start, self._written = 0.0, 0
        self._due: np.ndarray | None = None
        self._writer = cv2.VideoWriter(
            path,
            cv2.CAP_FFMPEG,
            cv2.VideoWriter_fourcc(*codec),
            frames_per_second,
            size[::-1],
        )
        if not self._writer.isOpened():
            raise DestinationError(
                f"can't write the video '{path}', {size[1]}×{size[0]} at {frames_per_second:g}/s"
            )

    def write(self, picture: np.ndarray, seconds: float):
        """Adds [H, W, 3] uint8 RGB, shown from `seconds` on; these grow from call to call."""
        if picture.shape[:2] != self._size:
            picture = cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_AREA)
        if self._due is None:
            self._start = seconds
        place = round((seconds - self._start) * self._rate)
        self._repeat_until(place)
        self._due = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)

    def close(self):
        """Ends the file."""
        self._repeat_until(self._written + 1)
        self._due = None
        self._writer.release()

    def _repeat_until(self, place: int):
        while self._due is not None and self._written < place:
            self._writer.write(self._due)
            self._written += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _check_destination(path: str, source: str | os.PathLike | None, overwrite: bool):
    if os.path.splitext(path)[1].lower() not in CODECS:
        raise VideoError(f"can't write '{path}': a video's name ends in {' or '.join(CODECS)}")
    if source is not None and os.path.exists(path) and os.path.samefile(path, source):
        raise DestinationError(f"'{path}' is the video itself; give another destination")
    if os.path.lexists(path) and not overwrite:
        raise DestinationError(f"'{path}' exists; give another destination")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    except OSError as error:
        raise DestinationError(f"can't write '{path}': {error.strerror}") from error


def predict_frames(
    predict: Callable[[list[np.ndarray]], Sequence[Any]],
    frames: Iterable[Frame],
    batch_size: int = 8,
) -> Iterator[tuple[Frame, Any]]:
    """Each frame with what was found on it, as they are read, `batch_size` held at a time.

    Args:
      predict: a list of images → what was found on each, such as a `Predictor`.
      frames: a `Video`, or some of its frames.
      batch_size: images given to `predict` together.
    """
    frames = iter(frames)
    while some := list(itertools.islice(frames, batch_size)):
        found = predict([frame.image for frame in some])
        yield from ((frame, found[number]) for number, frame in enumerate(some))
