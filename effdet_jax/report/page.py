"""The pieces that pages are made of: the frame, tables, bars, pictures.

A page is one file: styles, scripts and pictures lie in it, and it is forbidden to ask a network.
"""

import base64
import html
import importlib.resources
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from effdet_jax.files import text_in_place
from effdet_jax.report.charts import INSTALL, available, library

# Scripts may be evaluated: Vega compiles the expressions of a chart.
_ALLOWED = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def write_page(path: str, title: str, head: str, sections: Mapping[str, str]):
    """Writes a page; one that exists is replaced in one go.

    Args:
      head: HTML above the sections.
      sections: {heading: HTML}; empty ones are left out.
    """
    shown = {heading: body for heading, body in sections.items() if body}
    links = "".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in shown)
    body = "".join(
        f'<section id="{anchor(name)}"><h2>{escape(name)}</h2>{content}</section>'
        for name, content in shown.items()
    )
    charts = library() if '<figure class="card chart">' in body else ""
    scripts = f"<script>{charts}</script><script>{_asset('page.js')}</script>"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_asset('page.css')}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{head}</header><nav><div>{links}</div></nav>"
        f"<main>{body}</main>{scripts}</body></html>"
    )
    with text_in_place(path) as file:
        file.write(page)


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text for between tags and for attributes."""
    return html.escape(str(text), quote=True)


def anchor(heading: str) -> str:
    """A heading as an address inside the page: 'Train and val' → 'train-and-val'."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def number(value: float | None, digits: int = 3) -> str:
    """'0.471'; '–' for what there is none of: None, NaN, and pycocotools' -1."""
    missing = value is None or not math.isfinite(value) or value == -1
    return "–" if missing else f"{value:.{digits}f}" if digits else f"{value:,.0f}"


class Cell:
    """What a cell of a table shows beyond text.

    Args:
      text: to show.
      value: to sort by; makes it a number, to the right.
      share: 0 … 1, a bar behind the text.
    """

    def __init__(self, text: str, value: float | None = None, share: float | None = None):
        self.text, self.value, self.share = text, value, share

    def html(self) -> str:
        kind, attributes = ["number"] if self.value is not None else ["text"], ""
        if self.value is not None:
            attributes += f' data-value="{self.value:.6g}"'
        if self.share is not None:
            kind.append("meter")
            attributes += f' style="--share:{100 * min(max(self.share, 0.0), 1.0):.1f}%"'
        return f'<td class="{" ".join(kind)}"{attributes}>{escape(self.text)}</td>'


def quality(value: float) -> Cell:
    """A cell of an AP, AR or F1, 0 … 1, with its bar."""
    return Cell(number(value), value, max(value, 0.0))


def amount(value: float) -> Cell:
    """A cell of a count."""
    return Cell(f"{value:,.0f}", value)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    *,
    sortable: bool = False,
    narrow: bool = False,
) -> str:
    """A table; headings stand above their cells, to the right above numbers."""
    rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    if not rows:
        return ""
    numeric = [cell.value is not None for cell in rows[0]]
    head = "".join(
        f'<th class="{"number" if right else "text"}">{escape(heading)}</th>'
        for heading, right in zip(headings, numeric)
    )
    body = "".join(f"<tr>{''.join(cell.html() for cell in row)}</tr>" for row in rows)
    kind = " ".join(["sortable"] * sortable + ["narrow"] * narrow)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bars(counts: Mapping[str, int]) -> str:
    """A table with a bar per row."""
    most = max(counts.values(), default=0) or 1
    rows = [
        f'<tr><td class="text">{escape(name)}</td><td class="number">{count:,}</td>'
        f'<td class="bars"><span class="bar" style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for name, count in counts.items()
    ]
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def charts_hint() -> str:
    """What to install for charts; '' where that is done."""
    return "" if available() else f"<p>Charts come with <code>{escape(INSTALL)}</code>.</p>"


def card(title: str, body: str, note: str = "") -> str:
    """A block with a title and a sentence on what it tells."""
    note = f"<p>{escape(note)}</p>" if note else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{note}{body}</div>'


def chart(title: str, note: str, spec: Mapping[str, Any] | None) -> str:
    """A chart as HTML, to be drawn by the page's script; '' where there is none."""
    if spec is None:
        return ""
    # A name with '</script>' in it mustn't end the script.
    data = json.dumps(spec, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<figure class="card chart"><figcaption><h3>{escape(title)}</h3>'
        f'<p>{escape(note)}</p></figcaption><div class="vega"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def folded(title: str, body: str) -> str:
    """A block that shows its title until it is opened."""
    return f'<details class="card"><summary>{escape(title)}</summary>{body}</details>'


def row(*blocks: str) -> str:
    """Blocks side by side where there is room; '' without one."""
    return f'<div class="row">{"".join(blocks)}</div>' if any(blocks) else ""


def thumbnail(image: np.ndarray, side: int, *, enlarge: bool = False) -> tuple[np.ndarray, float]:
    """[H, W, 3] uint8 shrunk to at most `side` px, and by which factor.

    Args:
      enlarge: smaller ones are enlarged to it, for names drawn on them to be small.
    """
    factor = side / max(image.shape[:2])
    factor = factor if enlarge else min(1.0, factor)
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    shrunk = Image.fromarray(image).resize((width, height), reducing_gap=3.0)
    return np.asarray(shrunk), factor


def picture(image: np.ndarray, description: str) -> str:
    """An `<img>` of [H, W, 3] uint8, a JPEG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    name = escape(description)
    return (
        f'<img alt="{name}" title="{name}" width="{image.shape[1]}" height="{image.shape[0]}" '
        f'src="data:image/jpeg;base64,{data}">'
    )
