"""A data set on one HTML page: counts, bars, faults, and some images with their boxes.

The page is one file and needs neither network nor scripts.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from effdet_jax.data.example import DataReport, Source
from effdet_jax.files import put_in_place
from effdet_jax.inference.render import draw_boxes

_THUMBNAILS, _THUMBNAIL_SIDE = 12, 320  # Per split, and pixels.
_CASES = 200  # Of a fault; the rest are counted.

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: CanvasText; background: Canvas; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.stop { border-left: 4px solid #d1495b; padding-left: .8rem; }
.thumbnails { display: flex; flex-wrap: wrap; gap: .5rem; }
.thumbnails img { max-height: 220px; } rect { fill: #4c8dff; }
details { margin: .4rem 0; } li { overflow-wrap: anywhere; }
"""


def write_data_page(
    path: str, title: str, reports: Mapping[str, DataReport], sources: Mapping[str, Source]
):
    """Writes the page; one that exists is replaced.

    Args:
      title: of the data.
      reports: by split.
      sources: by split, of those that can be used; some of their images are shown.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for split, report in reports.items():
        parts += _split(split, report, sources.get(split))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    with put_in_place(path, overwrite=True) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write(page)


def _split(split: str, report: DataReport, source: Source | None) -> Iterator[str]:
    yield f"<h2>{split}</h2><p>{html.escape(report.lines()[0])}</p>"
    for reason in report.stops:
        yield f'<p class="stop">Training would refuse this: {html.escape(reason)}</p>'
    yield "".join(f"<p>{html.escape(note)}</p>" for note in report.notes)
    for kind, cases in sorted(report.faults.items(), key=lambda item: -len(item[1])):
        rest = f"<li>and {len(cases) - _CASES} more</li>" if len(cases) > _CASES else ""
        listed = "".join(f"<li>{html.escape(case)}</li>" for case in cases[:_CASES])
        title = f"{len(cases)} × {html.escape(kind)}"
        yield f"<details><summary>{title}</summary><ul>{listed}{rest}</ul></details>"
    counted = {name: count for name, count in report.classes.items() if count or len(name) < 40}
    yield "<h3>Boxes by class</h3>" + _bars(counted)
    if source is not None and not source.endless:
        sides = [_sides(truth.boxes) for truth in source.ground_truth()]
        yield "<h3>Boxes by size</h3>" + _bars(_histogram(np.concatenate(sides or [np.zeros(0)])))
        sizes = np.array([max(truth.size) for truth in source.ground_truth()])
        yield "<h3>Images by their longer side</h3>" + _bars(_histogram(sizes))
    if source is not None:
        yield '<div class="thumbnails">' + "".join(_thumbnails(source)) + "</div>"


def _sides(boxes: np.ndarray) -> np.ndarray:
    """[n] side of a square of a box's area, pixels."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _histogram(values: np.ndarray) -> dict[str, int]:
    """{'16 … 32 px': how many}, by powers of two."""
    powers = np.floor(np.log2(np.maximum(values, 1))).astype(int)
    levels = range(powers.min(), powers.max() + 1) if len(powers) else ()
    return {f"{2**n} … {2 ** (n + 1)} px": int((powers == n).sum()) for n in levels}


def _bars(counts: Mapping[str, int]) -> str:
    """A table with a bar per row."""
    most = max(counts.values(), default=0) or 1
    rows = [
        f'<tr><td>{html.escape(name)}</td><td class="number">{count}</td><td>'
        f'<svg width="300" height="12"><rect width="{300 * count / most:.1f}" height="12"/></svg>'
        "</td></tr>"
        for name, count in counts.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _thumbnails(source: Source) -> Iterator[str]:
    for index in range(0, len(source), max(1, len(source) // _THUMBNAILS))[:_THUMBNAILS]:
        example = source[index]
        if example.error:
            continue
        factor = min(1.0, _THUMBNAIL_SIDE / max(example.image.shape[:2]))
        image = Image.fromarray(example.image)
        image = image.resize([max(1, round(side * factor)) for side in image.size])
        boxes, labels = example.truth.boxes * factor, example.truth.labels
        picture = draw_boxes(np.asarray(image), boxes, labels, source.class_names)
        name = html.escape(source.describe(index), quote=True)
        yield f'<img alt="{name}" title="{name}" src="data:image/jpeg;base64,{_jpeg(picture)}">'


def _jpeg(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
