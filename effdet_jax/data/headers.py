"""What the files of a set say in their headers, and which size counts: the picture's.

Annotations may have been made for an image as it is stored or as EXIF turns it, with the sides
swapped, or for another size of it; boxes can be judged only after that is known.
"""

import collections
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.images import Header, read_header

# Opening every file of a larger set at the start would take longer than it is worth: so many, evenly
# spread, show whether files are of other sizes than their annotations say; if so, all are opened.
HEADERS_CHECKED = 20_000
SHARE_BY_CHANCE = 0.05  # Of faults of one kind; more of them have a cause in common.
OTHER_SIZE = "image of another size than its annotations say"

# A header on a local disk takes 30 µs, and threads would only slow that down. On a drive that
# takes its time, such as one over a network, they wait together.
_SLOW_SECONDS = 1e-3
_TIMED, _THREADS = 50, 16

Size = tuple[int, int]


def read_headers(paths: Mapping[int, str]) -> dict[int, Header | DataError]:
    """{number: header, or why there is none} of image files by number."""
    numbers, started = list(paths), time.monotonic()
    found = [_read(paths[number]) for number in numbers[:_TIMED]]
    slow = time.monotonic() - started > _SLOW_SECONDS * _TIMED
    with ThreadPoolExecutor(_THREADS if slow else 1) as pool:
        found += pool.map(_read, (paths[number] for number in numbers[_TIMED:]))
    return dict(zip(numbers, found))


def _read(path: str) -> Header | DataError:
    try:
        return read_header(path)
    except (OSError, DataError) as error:
        return DataError(str(error))


def settle_sizes(
    said: Sequence[Size | None],
    headers: Mapping[int, Header],
    boxes: Sequence[np.ndarray],
    where: Sequence[str],
    report: DataReport,
    *,
    rescale: bool,
) -> tuple[list[Size], dict[int, np.ndarray]]:
    """(height, width) of every image's pixels, and what boxes of some have to be multiplied by.

    Args:
      said: sizes in the annotations, None where they don't say.
      headers: by position; of all images that don't say.
      boxes: [n, 4] yxyx per image, as in the annotations.
      where: names of the images, for messages.
      report: what is found is added.
      rescale: boxes made for another size are scaled to the file's.

    Returns:
      sizes; {position: [4] factors of its boxes}, of images of another size if `rescale`.
    """
    sizes = list(said)
    for number, header in headers.items():
        sizes[number] = header.stored if said[number] == header.stored else header.size
    _note_turned(said, headers, report)
    differing = [number for number in headers if said[number] not in (None, sizes[number])]
    others = []
    for number in sorted(differing):
        if said[number] == sizes[number][::-1]:
            kind = "image whose annotations swap width and height (the file counts)"
            report.drop(kind, _compared(where[number], sizes[number], said[number]))
        else:
            report.drop(OTHER_SIZE, _compared(where[number], sizes[number], said[number]))
            others.append(number)
    if not others:
        return sizes, {}
    text = _most_common([(said[number], sizes[number]) for number in others])
    if _boxes_fit_files_alone(said, sizes, boxes, others):
        report.notes.append(f"sizes in the annotations are wrong, boxes are the files': {text}")
    elif rescale:
        report.notes.append(f"boxes of {len(others)} images are scaled: {text}")
        ratios = {n: np.divide(sizes[n], said[n]).astype(np.float64) for n in others}
        return sizes, {number: np.tile(ratio, 2) for number, ratio in ratios.items()}
    elif len(others) > SHARE_BY_CHANCE * len(said):
        report.stops.append(
            f"{text}: {len(others)} of {len(said)} images. If the files were resized after the "
            "boxes were drawn, scale the boxes with them: --config.data.rescale=True"
        )
    return sizes, {}


def _note_turned(said: Sequence[Size | None], headers: Mapping[int, Header], report: DataReport):
    turned = [number for number, header in headers.items() if header.size != header.stored]
    as_stored = sum(said[number] == headers[number].stored for number in turned)
    if as_stored:
        report.notes.append(
            f"{as_stored} images stay as stored, not turned as EXIF says: their annotations are of "
            "that size"
        )
    if len(turned) > as_stored:
        report.notes.append(f"{len(turned) - as_stored} images are turned as EXIF says")


def _boxes_fit_files_alone(
    said: Sequence[Size | None],
    sizes: Sequence[Size],
    boxes: Sequence[np.ndarray],
    numbers: Sequence[int],
) -> bool:
    """Whether boxes lie beyond the size that the annotations say, and yet all inside the files."""
    ends = np.concatenate([boxes[number][:, 2:] for number in numbers])
    counts = [len(boxes[number]) for number in numbers]
    limits = np.repeat([said[number] for number in numbers], counts, axis=0) + 1
    files = np.repeat([sizes[number] for number in numbers], counts, axis=0) + 1
    beyond = (ends > limits).any(1)
    return bool(beyond.sum() > SHARE_BY_CHANCE * len(ends) and (ends <= files).all())


def _most_common(pairs: Sequence[tuple[Size, Size]]) -> str:
    (said, found), _ = collections.Counter(pairs).most_common(1)[0]
    scale = max(said) / max(found)
    same = abs(min(said) - min(found) * scale) <= max(1.0, scale)  # But for rounding of a side.
    shape = "" if same else ", of another shape"
    return f"annotations were made for {_shown(said)}, files are {_shown(found)}{shape}"


def _compared(where: str, found: Size, said: Size) -> str:
    return f"{where}: {_shown(found)}, annotations say {_shown(said)}"


def _shown(size: Size) -> str:
    return f"{size[1]}×{size[0]}"
