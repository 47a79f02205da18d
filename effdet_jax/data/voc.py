"""Pascal VOC: an XML file per image, in the devkit's folders or in any other.

The devkit counts pixels from 1 and means the last one with: xmin … xmax of 1 … 3 are three pixels, the
box [0, 3). Tools that begin at 0 mean edges: a set with a coordinate below 1 is read so, and it is said.
Objects marked difficult are as crowds here: not learned, and ignored by the evaluation.
"""

import collections
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataReport
from effdet_jax.data.fields import flag, number
from effdet_jax.data.locate import Locator, list_files, list_images
from effdet_jax.data.records import Annotation, Record, RecordSource
from effdet_jax.data.splits import Parsed, Read, by_split, open_split, split_of

SIDES = ("ymin", "xmin", "ymax", "xmax")


def open_voc(split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of a Pascal VOC folder, an entry of `data.source.SOURCES`; see `splits.open_split`."""
    return open_split(find_voc, split, options)


def find_voc(root: str) -> dict[str, Read]:
    """The splits that lists in ImageSets/Main or the folders of XML files make; {} without XML."""
    if not os.path.isdir(root):
        return {}
    files = list_files(root, (".xml",))
    files = [path for path in files if _is_voc(os.path.join(root, path))]
    splits = _lists(root, files) if files else {}
    return {
        split: functools.partial(read_voc, root, paths)
        for split, paths in (splits or by_split(files, by_folder=True)).items()
    }


def _is_voc(path: str) -> bool:
    with open(path, "rb") as file:
        return b"<annotation" in file.read(500)


def _lists(root: str, files: Sequence[str]) -> dict[str, list[str]]:
    """{split: paths of XML files} by the lists in ImageSets/Main, of several years together.

    A listed name without a file is kept, to be missed; lists of one class ('cat_train') are left out.
    """
    at = {_stem(path): path for path in files}
    lists = [path for path in list_files(root, (".txt",), depth=4) if "ImageSets/Main" in path]
    chosen: dict[tuple[str, str], str] = {}
    for path in sorted(lists, key=lambda path: "trainval" in path):  # Where there is no 'train'.
        if (split := split_of(_stem(path))) and "_" not in _stem(path):
            chosen.setdefault((os.path.dirname(path), split), path)
    found = collections.defaultdict(list)
    for (_, split), path in chosen.items():
        with open(os.path.join(root, path), encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
        found[split] += [at.get(name) or at.get(_stem(name)) or f"{name}.xml" for name in names]
    return {split: paths for split, paths in found.items() if paths}


def read_voc(root: str, paths: Sequence[str], images: str) -> Parsed:
    """Records of XML files.

    Args:
      root: folder of the set.
      paths: of the XML files, below it.
      images: folder of the images; '' looks for them below `root`.
    """
    report = DataReport()
    images = images or _images_folder(root)
    parsed = {path: _parse(os.path.join(root, path), report) for path in paths}
    found = {path: entry for path, entry in parsed.items() if entry is not None}
    objects = [item for entry in found.values() for item in entry.findall("object")]
    class_names = ClassNames.from_names(sorted({name for item in objects if (name := _name(item))}))
    least = min((side for item in objects for side in _sides(item) if side is not None), default=1)
    origin = 1 if least >= 1 else 0
    if not origin:
        report.notes.append(
            f"coordinates begin at {least:g}: xmin … xmax are taken as edges, not as VOC's pixels from 1"
        )
    files, index_of = Locator(images), class_names.index_of_name()
    records = [
        _record(path, entry, files, index_of, origin, report) for path, entry in found.items()
    ]
    difficult = sum(row.crowd for record in records for row in record.annotations)
    if difficult:
        report.notes.append(f"{difficult} difficult objects: not learned, ignored in evaluation")
    kind = f"{len(found)} Pascal VOC XML files in"
    folder = os.path.join(root, os.path.commonpath([os.path.dirname(path) for path in paths]))
    return Parsed(records, class_names, images, os.path.normpath(folder), kind, report)


def _images_folder(root: str) -> str:
    """The devkit's, or the folder itself, or one beside it if no image is there."""
    beside = [os.path.join(root, os.pardir, name) for name in ("JPEGImages", "images")]
    devkit = os.path.join(root, "JPEGImages")
    if os.path.isdir(devkit):
        return devkit
    tried = [root, *map(os.path.normpath, beside)]
    return next((folder for folder in tried if list_images(folder)), root)


def _parse(path: str, report: DataReport) -> ElementTree.Element | None:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        report.drop("XML file that can't be read", f"{path}: {error}")
        return None


def _record(
    path: str,
    entry: ElementTree.Element,
    files: Locator,
    index_of: Mapping[str, int],
    origin: int,
    report: DataReport,
) -> Record:
    # The image of the XML's own name: `filename` is often that of another machine, or outdated.
    written = (entry.findtext("filename") or "").strip()
    name = files.find(f"{os.path.splitext(path)[0]}.jpg") or (written and files.find(written))
    height, width = (number(entry.findtext(f"size/{side}")) or 0 for side in ("height", "width"))
    annotations = []
    for item in entry.findall("object"):
        sides, label = _sides(item), index_of.get(_name(item))
        box = None
        if None not in sides:
            box = (sides[0] - origin, sides[1] - origin, sides[2], sides[3])
        where = f"{os.path.basename(path)}: {_name(item)!r} is {dict(zip(SIDES, sides))}"
        difficult = flag(item.findtext("difficult"))
        if difficult is None:
            report.drop("difficult that is neither 0 nor 1 (taken as 0)", where)
        annotations.append(Annotation(box, label, where, bool(difficult)))
    name = name or written or path
    size = (int(height), int(width)) if height and width else None
    return Record(name, name, size, annotations)


def _name(item: ElementTree.Element) -> str:
    return (item.findtext("name") or "").strip()


def _sides(item: ElementTree.Element) -> list[float | None]:
    return [number(item.findtext(f"bndbox/{side}")) for side in SIDES]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
