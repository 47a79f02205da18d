"""CSV: a row per box, with a line of column names or in the order of keras-retinanet or AutoML."""

import collections
import csv
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.fields import number, numbers
from effdet_jax.data.images import image_size
from effdet_jax.data.locate import Locator, find_images, list_files
from effdet_jax.data.records import Annotation, Record, RecordSource
from effdet_jax.data.splits import IMAGE_FOLDERS, Parsed, Read, by_split, open_split, split_of

# What columns are called, in lower case without '_', '-' and blanks; first match wins.
COLUMNS = {
    "file": ("filename", "file", "filepath", "path", "imagepath", "imgpath", "imagename", "image")
    + ("img", "imageid", "imagefile"),
    "xmin": ("xmin", "x1", "left", "bboxxmin"),
    "ymin": ("ymin", "y1", "top", "bboxymin"),
    "xmax": ("xmax", "x2", "right", "bboxxmax"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax"),
    "x": ("x", "bboxx"),
    "y": ("y", "bboxy"),
    "width": ("bboxwidth", "bboxw", "width", "w"),
    "height": ("bboxheight", "bboxh", "height", "h"),
    "bbox": ("bbox", "box"),
    "class": ("class", "label", "name", "classname", "labelname", "category", "categoryname")
    + ("target", "classid", "categoryid"),
    "split": ("split", "set", "subset"),
}
RETINANET = {"file": 0, "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "class": 5}
# A box of Google AutoML: set, file, label, then the four corners, of which two are needed.
AUTOML = {"split": 0, "file": 1, "class": 2, "xmin": 3, "ymin": 4, "xmax": 7, "ymax": 8}


class Table(NamedTuple):
    """Rows of a CSV file.

    Attributes:
      columns: {what: position}, keys of `COLUMNS`.
      rows: (line number, cells).
    """

    columns: dict[str, int]
    rows: list[tuple[int, list[str]]]


def open_tables(split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of CSV files, an entry of `data.source.SOURCES`; see `splits.open_split`."""
    return open_split(find_tables, split, options)


def find_tables(root: str) -> dict[str, Read]:
    """The splits of a folder's CSV files by their names, or of one file by a column; {} without."""
    if os.path.isfile(root):
        paths = [root] if root.lower().endswith((".csv", ".tsv")) else []
    else:
        paths = [os.path.join(root, path) for path in list_files(root, (".csv", ".tsv"), 2)]
    paths = [path for path in paths if _columns(_cells(path, most=1))]
    named = by_split([os.path.relpath(path, root) for path in paths]) if len(paths) > 1 else {}
    if named:
        return {
            split: functools.partial(read_table, os.path.join(root, some[0]), "")
            for split, some in named.items()
            if len(some) == 1
        }
    if not paths:
        return {}
    (path,) = paths
    table = read_rows(path)
    if "split" in table.columns:
        values = {row[table.columns["split"]] for _, row in table.rows}
        splits = {split_of(value) or "train" for value in values}
    else:
        splits = {split_of(os.path.basename(path)) or "train"}
    return {
        split: functools.partial(read_table, path, split if "split" in table.columns else "")
        for split in splits
    }


def read_rows(path: str) -> Table:
    """The rows of a CSV file and what its columns are.

    Raises:
      DataError: its columns aren't those of boxes.
    """
    cells = _cells(path)
    columns = _columns(cells)
    if not columns:
        shown = ", ".join(cells[0][1]) if cells else "nothing"
        raise DataError(
            f"{path}: no table of boxes: it begins with {shown}. It needs the columns filename, "
            "xmin, ymin, xmax, ymax, class (or x, y, width, height)"
        )
    named = _header(cells[0][1])
    return Table(columns, cells[1:] if named else cells)


def _cells(path: str, most: int = 0) -> list[tuple[int, list[str]]]:
    """(line number, cells) of all rows, or of the first `most`; separated as the first line is."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=first.lstrip("\ufeff").count)
        reader, found = csv.reader(file, delimiter=separator), []
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append((reader.line_num, [cell.strip() for cell in row]))
            if most and len(found) == most:
                break
    return found


def _header(cells: Sequence[str]) -> dict[str, int]:
    """{what: position} of the columns that a first line names."""
    plain = [cell.lower().translate({ord(mark): None for mark in "_- ./"}) for cell in cells]
    found = {}
    for what, names in COLUMNS.items():
        if first := next((name for name in names if name in plain), ""):
            found[what] = plain.index(first)
    corners = {"xmin", "ymin", "xmax", "ymax"} <= set(found)
    sides = {"x", "y", "width", "height"} <= set(found)
    return found if "file" in found and (corners or sides or "bbox" in found) else {}


def _columns(cells: Sequence[tuple[int, Sequence[str]]]) -> dict[str, int]:
    """The columns by the first row: named, or of a known order; {} if it is neither."""
    if not cells:
        return {}
    _, first = cells[0]
    if named := _header(first):
        return named
    if len(first) >= 9 and first[0].upper() in ("TRAIN", "VALIDATION", "TEST", "UNASSIGNED"):
        return AUTOML
    box = first[1:5]
    if len(first) == 6 and (not any(box) or None not in [number(side) for side in box]):
        return RETINANET
    return {}


def read_table(path: str, split: str, images: str) -> Parsed:
    """Records of a CSV file, one per image.

    Args:
      path: of the file.
      split: rows of this split alone, if not ''.
      images: folder of the images; '' looks for it around the file.
    """
    table, report = read_rows(path), DataReport()
    rows = [(line, _Row(table.columns, cells)) for line, cells in table.rows]
    kept = [
        (line, row)
        for line, row in rows
        if not split or (split_of(row["split"]) or "train") == split
    ]
    for line, row in kept:
        if not row["file"]:
            report.drop("row without a file", f"{os.path.basename(path)}: line {line}")
    kept = [(line, row) for line, row in kept if row["file"]]
    classes = {row.label for _, row in rows if any(row.sides)}
    class_names = ClassNames.from_names(sorted(classes, key=lambda name: (number(name) or 0, name)))
    boxes = collections.defaultdict(list)
    for line, row in kept:
        boxes[row["file"]].append((line, row))
    images = images or find_images(path, list(boxes), IMAGE_FOLDERS)
    # Boxes of a whole file within 0 … 1 are shares of the image.
    found = [side for _, row in rows if None not in (box := row.box()) for side in box]
    shares = bool(found) and max(found) <= 1.0
    if shares:
        report.notes.append("all coordinates are within 0 … 1: taken as shares of the image")
    index_of, files = class_names.index_of_name(), Locator(images)
    records = [
        _record(name, some, index_of, files, images if shares else "")
        for name, some in boxes.items()
    ]
    return Parsed(records, class_names, images, path, "CSV", report)


class _Row:
    """A row's cells by what they are; '' for what isn't there."""

    def __init__(self, columns: Mapping[str, int], cells: Sequence[str]):
        self._columns, self._cells = columns, cells

    def __getitem__(self, what: str) -> str:
        position = self._columns.get(what, len(self._cells))
        return self._cells[position] if position < len(self._cells) else ""

    @property
    def label(self) -> str:
        """The class; a file without a column for it has one class."""
        return self["class"] if "class" in self._columns else "object"

    @property
    def sides(self) -> list[str]:
        """What the box is made of, as written; all '' for an image without objects."""
        corners = [self[side] for side in ("xmin", "ymin", "xmax", "ymax")]
        if "xmin" in self._columns:
            return corners
        return [self["bbox"]] if "bbox" in self._columns else [self["x"], self["y"]]

    def box(self) -> list[float | None]:
        """[ymin, xmin, ymax, xmax]; None for what is no number."""
        if "xmin" in self._columns:
            return [number(self[side]) for side in ("ymin", "xmin", "ymax", "xmax")]
        written = [number(self[side]) for side in ("x", "y", "width", "height")]
        if "bbox" in self._columns:
            written = numbers(self["bbox"]) or [None]
        if len(written) != 4 or None in written:
            return [None] * 4
        x, y, width, height = written
        return [y, x, y + height, x + width]


def _record(
    name: str,
    rows: Sequence[tuple[int, _Row]],
    index_of: Mapping[str, int],
    files: Locator,
    images: str,
) -> Record:
    """An image's rows; `images` is given where boxes are shares of its size."""
    size = None
    if images:
        try:
            size = image_size(os.path.join(images, files.find(name) or name))
        except DataError:
            return Record(name, name, None, [])  # The file is what is wrong, and is named as such.
    annotations = []
    for line, row in rows:
        if not any(row.sides):
            continue
        box = row.box()
        if None not in box and size:
            box = [side * length for side, length in zip(box, size * 2)]
        where = f"line {line}: {row.sides}, class '{row.label}'"
        annotations.append(Annotation(None if None in box else box, index_of.get(row.label), where))
    return Record(name, name, size, annotations)
