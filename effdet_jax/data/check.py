"""Faults of a whole set that no single record shows: boxes in another order or unit, classes without
boxes, the same picture twice."""

import collections
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from effdet_jax.classes import is_unused
from effdet_jax.data.example import DataError, DataReport, Source
from effdet_jax.data.headers import SHARE_BY_CHANCE

# Kinds of faults of a box, and what so many of them mean that it can't be chance.
NOT_LISTED = "box of a category that isn't listed"
NO_NUMBERS = "box that isn't four finite numbers"
NO_AREA = "box without width or height"
OUTSIDE = "box outside its image"
TINY = "box smaller than a pixel"
_CAUSES = {
    NOT_LISTED: "the list of categories is incomplete, or of another set",
    NO_NUMBERS: "they may have been written by another program than the rest",
    NO_AREA: "their corners may be in another order, or the second one be missing",
    OUTSIDE: "they may have been made for larger images, for images turned by 90°, or for others of "
    "the same names",
    TINY: "they may be shares of the image's sides instead of pixels",
}
_FEWEST = 3  # Faults of one kind in a small set that can still be chance: one less.
_MOST_REACHING = 0.2  # Share of boxes that reach out of their images; more aren't merely cut off.
_FITTING = 0.95
_BLOCK = 1 << 14

# What [x, y, width, height] may have been meant as → its [ymin, xmin, ymax, xmax].
_ORDERS: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "[x1, y1, x2, y2]": lambda a, b, c, d: (b, a, d, c),
    "[y1, x1, y2, x2]": lambda a, b, c, d: (a, b, c, d),
    "[y, x, height, width], or boxes of images turned by 90°": (
        lambda a, b, c, d: (a, b, a + c, b + d)
    ),
    "[centre x, centre y, width, height]": (
        lambda a, b, c, d: (b - d / 2, a - c / 2, b + d / 2, a + c / 2)
    ),
}


def suspect_order(boxes: np.ndarray, sizes: np.ndarray, report: DataReport):
    """Adds why boxes seem to be in another unit or order than they are read in, if they do.

    Args:
      boxes: [n, 4] yxyx of a whole set, finite.
      sizes: [n, 2] (height, width) of their images, pixels.
      report: gets a stop, or a note where it can't be told.
    """
    if not len(boxes):
        return
    if 0 < np.abs(boxes).max() <= 1.5 and np.median(sizes) > 4:
        report.stops.append(
            f"all {len(boxes)} boxes lie between {boxes.min():.3g} and {boxes.max():.3g}: these are "
            "shares of the image's sides (normalised), pixels are needed; multiply x and width by "
            "the image's width, y and height by its height"
        )
        return
    ymin, xmin, ymax, xmax = boxes.T
    x, y, width, height = xmin, ymin, xmax - xmin, ymax - ymin
    reaching = len(boxes) - int(_fit(boxes, sizes).sum())
    for name, meant in _ORDERS.items():
        fitting = _fit(np.stack(meant(x, y, width, height), 1), sizes)
        if reaching > _MOST_REACHING * len(boxes) and fitting.mean() >= _FITTING:
            report.stops.append(
                f"{reaching} of {len(boxes)} boxes reach out of their images, and "
                f"{int(fitting.sum())} fit if they are {name}; [x, y, width, height] is needed"
            )
            return
        if name == "[x1, y1, x2, y2]" and len(np.unique(boxes, axis=0)) >= 10 and fitting.all():
            report.notes.append(
                "every box would also be one as [x1, y1, x2, y2]: look whether boxes lie on their "
                "objects (check_data --report=data.html)"
            )


def _fit(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[n] bool: boxes with an area, inside their images but for a pixel of rounding."""
    starts, ends = boxes[:, :2], boxes[:, 2:]
    return ((starts >= -1) & (ends <= sizes + 1) & (starts < ends)).all(1)


def suspect_shares(report: DataReport, num_boxes: int):
    """Adds a stop for each kind of fault that more of the boxes have than chance would give.

    Args:
      num_boxes: of the set, those left out included.
    """
    known = bool(report.stops)  # The cause of boxes that are left out for where they lie.
    for kind, cause in _CAUSES.items():
        count = report.dropped.get(kind, 0)
        if known and kind in (NO_AREA, OUTSIDE, TINY):
            continue
        if count >= _FEWEST and count > SHARE_BY_CHANCE * num_boxes:
            report.stops.append(f"{count} of {num_boxes} boxes: {kind}; {cause}")


def check_training(source: Source, *, tolerate: bool):
    """Notes what can't be learned from training data, where its boxes are known.

    Raises:
      DataError: nothing can, and `tolerate` is false.
    """
    report = source.report
    if report.boxes and report.crowd == report.boxes:
        report.stops.append("every box is a crowd (iscrowd: 1): nothing can be learned")
        if not tolerate:
            raise stopped(getattr(source, "name", "training data"), report)
    absent = [name for name, boxes in report.classes.items() if not (boxes or is_unused(name))]
    if absent and report.boxes:
        shown = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
        report.notes.append(f"classes without a box, which can't be learned: {shown}")


def stopped(name: str, report: DataReport) -> DataError:
    """The error for faults that can't be chance."""
    return DataError(
        f"{name}: "
        + "\n  ".join(report.stops)
        + "\n  All faults: python -m effdet_jax.check_data FOLDER. To train all the same: "
        "--config.data.tolerate=True",
        report,
    )


def count(source: Source):
    """Fills the report with what the ground truth holds: images, boxes, crowds, classes."""
    report, truths = source.report, list(source.ground_truth())
    report.images = len(truths)
    report.boxes = sum(len(truth.boxes) for truth in truths)
    report.crowd = sum(int(truth.crowd.sum()) for truth in truths)
    report.empty = sum(not len(truth.boxes) for truth in truths)
    labels = [truth.labels[~truth.crowd] for truth in truths]
    labels = np.concatenate([np.zeros(0, np.int32), *labels])
    counts = np.bincount(labels, minlength=len(source.class_names)).tolist()
    report.classes = dict(zip(source.class_names.names, counts))


def note_copies(sources: Mapping[str, Source], *, most: int | None = None):
    """Counts images in several splits, and images twice in one under other names, by content.

    Args:
      sources: by split; those without `paths` are left out.
      most: images that may be opened; of more it is only noted that nothing was looked for.
    """
    if most is not None and sum(len(source) for source in sources.values()) > most:
        for source in sources.values():
            if hasattr(source, "paths"):
                source.report.notes.append(
                    f"copies of images weren't looked for: more than {most} (check_data does)"
                )
        return
    place: dict[str, tuple[str, int]] = {}
    for split, source in sources.items():
        for index, path in enumerate(getattr(source, "paths", ())):
            if path in place:
                _count_copy(sources, (split, index), place[path])
            else:
                place[path] = (split, index)
    for first, *others in same_content(place):
        for other in others:
            _count_copy(sources, place[other], place[first])


def _count_copy(sources: Mapping[str, Source], one: tuple[str, int], other: tuple[str, int]):
    (split, index), (other_split, other_index) = one, other
    kind = "image that is there twice, under other names"
    if split != other_split:
        kind = f"image that is in the {other_split} data, too"
    where, same = sources[split].describe(index), sources[other_split].describe(other_index)
    sources[split].report.drop(kind, f"{where} is {same}")


def same_content(paths: Iterable[str]) -> list[list[str]]:
    """Groups of two or more files with the same bytes, in the order given.

    Only files of one size are opened, and only those with the same beginning are read whole.
    """
    groups = [list(paths)]
    for key in (os.path.getsize, _digest_of_beginning, _digest):
        groups = [group for some in groups for group in _grouped(some, key)]
    return groups


def _grouped(paths: Sequence[str], key: Callable[[str], object]) -> list[list[str]]:
    groups = collections.defaultdict(list)
    for path in paths:
        try:
            groups[key(path)].append(path)
        except OSError:  # Gone since it was listed; reading it says so.
            pass
    return [group for group in groups.values() if len(group) > 1]


def _digest_of_beginning(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(_BLOCK)).digest()


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
