"""A data set on one HTML page: counts, bars, faults, and some images with their boxes."""

from collections.abc import Iterator, Mapping

import numpy as np

from effdet_jax.data.example import DataReport, Source
from effdet_jax.inference.render import draw_boxes
from effdet_jax.report.page import bars, card, escape, picture, row, thumbnail, write_page

_THUMBNAILS, _THUMBNAIL_SIDE = 12, 320  # Per split, and pixels.
_CASES = 200  # Of a fault; the rest are counted.


def write_data_page(
    path: str, title: str, reports: Mapping[str, DataReport], sources: Mapping[str, Source]
):
    """Writes the page; one that exists is replaced.

    Args:
      title: of the data.
      reports: by split.
      sources: by split, of those that can be used; some of their images are shown.
    """
    sections = {
        split: split_section(report, sources.get(split), thumbnails=_THUMBNAILS)
        for split, report in reports.items()
    }
    write_page(path, title, "", sections)


def split_section(report: DataReport, source: Source | None, *, thumbnails: int) -> str:
    """What a split holds, and every fault of it.

    Args:
      source: of the report, if it can be used; an endless one has no sizes to count.
      thumbnails: images to show, evenly over the set.
    """
    return "".join(_split(report, source, thumbnails))


def _split(report: DataReport, source: Source | None, thumbnails: int) -> Iterator[str]:
    yield f"<p>{escape(report.lines()[0])}</p>"
    for reason in report.stops:
        yield f'<p class="stop">Training would refuse this: {escape(reason)}</p>'
    yield "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    for kind, cases in sorted(report.faults.items(), key=lambda item: -len(item[1])):
        rest = f"<li>and {len(cases) - _CASES} more</li>" if len(cases) > _CASES else ""
        listed = "".join(f"<li>{escape(case)}</li>" for case in cases[:_CASES])
        title = f"{len(cases)} × {escape(kind)}"
        yield f"<details><summary>{title}</summary><ul>{listed}{rest}</ul></details>"
    counted = {name: count for name, count in report.classes.items() if count or len(name) < 40}
    blocks = [card("Boxes by class", bars(counted))] if counted else []
    if source is not None and not source.endless:
        truths = list(source.ground_truth())
        boxes = np.concatenate([np.zeros((0, 4)), *(truth.boxes for truth in truths)])
        longest = np.array([max(truth.size) for truth in truths])
        blocks += [
            card(
                "Boxes by size", bars(_histogram(_sides(boxes))), "Side of a square of their area."
            ),
            card("Images by their longer side", bars(_histogram(longest))),
        ]
    yield row(*blocks)
    if source is not None:
        yield f'<div class="thumbnails">{"".join(_thumbnails(source, thumbnails))}</div>'


def _sides(boxes: np.ndarray) -> np.ndarray:
    """[n] side of a square of a box's area, pixels."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _histogram(values: np.ndarray) -> dict[str, int]:
    """{'16 … 32 px': how many}, by powers of two."""
    powers = np.floor(np.log2(np.maximum(values, 1))).astype(int)
    levels = range(powers.min(), powers.max() + 1) if len(powers) else ()
    return {f"{2**n} … {2 ** (n + 1)} px": int((powers == n).sum()) for n in levels}


def _thumbnails(source: Source, count: int) -> Iterator[str]:
    for index in range(0, len(source), max(1, len(source) // count))[:count]:
        example = source[index]
        if example.error:
            continue
        small, factor = thumbnail(example.image, _THUMBNAIL_SIDE)
        boxes, labels = example.truth.boxes * factor, example.truth.labels
        drawn = draw_boxes(small, boxes, labels, source.class_names)
        yield picture(drawn, source.describe(index))
