"""COCO JSON as many tools write it: where the files of a set lie, and their records.

An entry of a wrong shape is left out, counted and named; what can be read in one way only, such as
'48.0' for a width or "7" for the id 7, is read.
"""

import collections
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

from pycocotools import mask as masks

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.fields import flag, identity, number, numbers
from effdet_jax.data.locate import find_images, list_files
from effdet_jax.data.records import Annotation, Record, RecordSource
from effdet_jax.data.splits import (
    IMAGE_FOLDERS,
    WORDS,
    Parsed,
    Read,
    by_split,
    open_split,
    split_of,
)

# Where a split's JSON may lie below the data folder, first match wins, whatever the case.
LAYOUTS = (
    "{word}.json",
    "annotations/{word}.json",
    "annotations/instances_{word}.json",
    "annotations/instances_{word}2017.json",
    "instances_{word}.json",
    "{word}/_annotations.coco.json",
)
# Other files of COCO's own annotation folder.
NOT_BOXES = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_", "deploy_")
FILE_NAME_KEYS = ("file_name", "filename", "coco_url", "path")

Entries = list[tuple[str, dict[str, Any]]]  # (where it stands, what it says).


def open_coco(split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of a COCO-JSON folder, an entry of `data.source.SOURCES`; see `splits.open_split`."""
    return open_split(find_coco, split, options)


def find_coco(root: str) -> dict[str, Read]:
    """The splits of a COCO-JSON folder, or of one JSON, which is training data unless its name says
    otherwise."""
    if os.path.isfile(root):
        if not root.lower().endswith(".json"):
            return {}
        return {split_of(os.path.basename(root)) or "train": functools.partial(read_coco, root)}
    files = {path.lower(): path for path in list_files(root, (".json",), depth=2)}
    found = {}
    for split, words in WORDS.items():
        tried = [layout.format(word=word) for word in words for layout in LAYOUTS]
        if first := next((files[path] for path in tried if path in files), ""):
            found[split] = first
    if "train" not in found:
        found = (
            _unusual(root, [path for path in files.values() if path not in found.values()]) | found
        )
    return {
        split: functools.partial(read_coco, os.path.join(root, path))
        for split, path in found.items()
    }


def _unusual(root: str, paths: list[str]) -> dict[str, str]:
    """The one JSON per split among files of other names, or the one JSON of all."""
    known = [path for path in paths if not os.path.basename(path).startswith(NOT_BOXES)]
    known = [path for path in known if _lists_images(os.path.join(root, path))]
    return {split: some[0] for split, some in by_split(known).items() if len(some) == 1}


def _lists_images(path: str) -> bool:
    with open(path, "rb") as file:
        content = file.read()
    return b'"images"' in content and b'"categories"' in content


def read_coco(path: str, images: str) -> Parsed:
    """Records of a COCO JSON.

    Args:
      path: of the JSON.
      images: folder the `file_name`s are relative to; '' looks for it around the JSON.

    Raises:
      DataError: it isn't COCO's.
    """
    content, report = _read_json(path), DataReport()
    entries = {
        name: _entries(content, name, report, path)
        for name in ("images", "categories", "annotations")
    }
    class_names, labels = _categories(entries, report, path)
    records = _records(entries, labels, report, path)
    if not records:
        raise DataError(f"{path}: lists no images; " + "; ".join(report.lines()[1:]))
    names = [record.file_name for record in records]
    images = images or find_images(path, names, IMAGE_FOLDERS)
    return Parsed(records, class_names, images, path, "COCO JSON", report)


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows tools write a byte order mark.
            content = json.load(file)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    missing = [
        key
        for key in ("images", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise DataError(
            f"{path}: not a COCO detection file: it has no list {' and no list '.join(missing)}"
        )
    if not isinstance(content.get("annotations") or [], list):
        raise DataError(f"{path}: not a COCO detection file: annotations isn't a list")
    content["categories"] = _with_ids(content["categories"], content.get("annotations") or [])
    return content


def _with_ids(categories: list[Any], annotations: list[Any]) -> list[Any]:
    """Categories that are bare names: their ids are the names, or their positions from 0 or 1,
    whichever the annotations use."""
    if not all(isinstance(category, str) for category in categories):
        return categories
    used = [row.get("category_id") for row in annotations if isinstance(row, dict)]
    if any(isinstance(id_, str) for id_ in used):
        return [{"id": name, "name": name} for name in categories]
    return [
        {"id": id_, "name": name} for id_, name in enumerate(categories, start=int(0 not in used))
    ]


def _entries(content: Mapping[str, Any], name: str, report: DataReport, path: str) -> Entries:
    """(where, entry) of a list's entries; those that are no objects are left out."""
    found = []
    for position, entry in enumerate(content.get(name) or []):
        where = f"{os.path.basename(path)}: {name}[{position}]"
        if isinstance(entry, dict):
            found.append((where, entry))
        else:
            report.drop(f"entry of '{name}' that is no object", f"{where} is {entry!r}")
    return found


class _Ids:
    """Ids that entries refer to; where only the type differs ("7" for 7) they are compared as text."""

    def __init__(self, ids: list[int | str]):
        self._ids = set(ids)
        count = collections.Counter(map(str, self._ids))
        self._by_text = {str(id_): id_ for id_ in self._ids if count[str(id_)] == 1}
        self._others: list[str] = []

    def __call__(self, reference: Any) -> int | str | None:
        """The id that is meant; None if it isn't there."""
        value = identity(reference)
        if value is None or value in self._ids:
            return value
        meant = self._by_text.get(str(value))
        if meant is not None:
            self._others.append(f"{value!r} for {meant!r}")
        return meant

    def note(self, report: DataReport, what: str):
        if self._others:
            text = f"{len(self._others)} × {what} of another type, compared as text, first: "
            report.notes.append(text + self._others[0])


def _categories(
    entries: Mapping[str, Entries], report: DataReport, path: str
) -> tuple[ClassNames, list[int | None]]:
    """The classes, and the class index of every annotation, None if it isn't listed."""
    names, parents = _names(entries["categories"], report, path)
    find = _Ids(list(names))
    meant = [find(row.get("category_id")) for _, row in entries["annotations"]]
    find.note(report, "category_id")
    # The name of a group that others belong to; Roboflow's project may be called like its class.
    used = set(meant)
    groups = [
        id_
        for id_, name in names.items()
        if id_ not in used and any(name == parents[other] for other in names if other != id_)
    ]
    if 0 < len(groups) < len(names):
        shown = ", ".join(f"'{names.pop(id_)}' (id {id_})" for id_ in groups)
        report.notes.append(f"no class, but the group of others, and without a box: {shown}")
    try:
        categories = [{"id": id_, "name": name} for id_, name in names.items()]
        class_names = ClassNames.from_categories(categories)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    index_of = class_names.index_of_id()
    return class_names, [index_of.get(id_) for id_ in meant]


def _names(
    categories: Entries, report: DataReport, path: str
) -> tuple[dict[int | str, str], dict[int | str, Any]]:
    """{id: name} and {id: supercategory}; equal categories are one (VIA writes one per region)."""
    names, parents, repeated = {}, {}, 0
    for where, entry in categories:
        id_, name = identity(entry.get("id")), identity(entry.get("name"))
        if id_ is None:
            report.drop("category without an id", f"{where} is {entry!r}")
            continue
        if name in (None, ""):
            report.drop("category without a name", f"{where} is {entry!r}")
            name = f"class {id_}"
        if names.get(id_, str(name)) != str(name):
            raise DataError(f"{path}: category id {id_} is listed as '{names[id_]}' and '{name}'")
        repeated += id_ in names
        names[id_], parents[id_] = str(name), entry.get("supercategory")
    if repeated:
        report.notes.append(f"{repeated} categories that are listed again are one with the first")
    return names, parents


def _records(
    entries: Mapping[str, Entries], labels: list[int | None], report: DataReport, path: str
) -> list[Record]:
    found: dict[int | str, Record] = {}
    for where, image in entries["images"]:
        record = _image(where, image, report)
        if record is None:
            continue
        earlier = found.setdefault(record.image_id, record)
        if earlier.file_name != record.file_name:
            raise DataError(
                f"{path}: image id {record.image_id!r} is listed twice, as '{earlier.file_name}' "
                f"and as '{record.file_name}'"
            )
        if earlier is not record:
            report.drop("image that is listed twice", f"{where}: '{record.file_name}'")
    find, outlined = _Ids(list(found)), 0
    for (where, row), label in zip(entries["annotations"], labels):
        image_id = find(row.get("image_id"))
        if image_id not in found:
            named = f"{where}: annotation {row.get('id')} of image {row.get('image_id')}"
            report.drop("box of an image that isn't listed", named)
            continue
        annotation = _annotation(where, row, label, report)
        outlined += annotation.box is not None and not row.get("bbox")
        found[image_id].annotations.append(annotation)
    find.note(report, "image_id")
    if outlined:
        report.notes.append(f"{outlined} boxes are those of polygons or masks: they have no bbox")
    return list(found.values())


def _image(where: str, entry: dict[str, Any], report: DataReport) -> Record | None:
    id_ = identity(entry.get("id"))
    name = next((entry[key] for key in FILE_NAME_KEYS if isinstance(entry.get(key), str)), "")
    if id_ is None or not name:
        what = "id" if id_ is None else "file_name"
        report.drop(f"image without {what}", f"{where} is {entry!r}")
        return None
    sides = [entry.get(side) or 0 for side in ("height", "width")]
    size = [number(side) for side in sides]
    if None in size:
        reason = "image whose height or width is no number (the file counts)"
        report.drop(reason, f"{where} '{name}': {sides[0]!r}, {sides[1]!r}")
        size = [0, 0]
    height, width = map(int, size)
    return Record(id_, name, (height, width) if height and width else None, [])


def _annotation(
    where: str, row: dict[str, Any], label: int | None, report: DataReport
) -> Annotation:
    bbox, area, crowd = row.get("bbox"), row.get("area"), flag(row.get("iscrowd"))
    named = f"annotation {row.get('id', where)} is {bbox}, category {row.get('category_id')}"
    sides = numbers(bbox) or ([] if bbox else _outline(row.get("segmentation")))
    box = None
    if len(sides) == 4:
        x, y, width, height = sides
        box = (y, x, y + height, x + width)
    if crowd is None:
        reason = "iscrowd that is neither 0 nor 1 (taken as 0)"
        report.drop(reason, f"{where}: {row['iscrowd']!r}")
    if area is not None and (number(area) is None or number(area) < 0):
        report.drop("area that is no number of pixels (the box's is taken)", f"{where}: {area!r}")
        area = None
    outline = row.get("segmentation")
    return Annotation(box, label, named, bool(crowd), area and number(area), outline)


def _outline(segmentation: Any) -> list[float]:
    """[x, y, width, height] around polygons (VIA writes one flat list) or a mask; [] if it is none."""
    try:
        if isinstance(segmentation, dict):
            if isinstance(segmentation["counts"], list):
                segmentation = masks.frPyObjects(segmentation, *segmentation["size"])
            return [float(side) for side in masks.toBbox(segmentation)]
        polygons = [segmentation] if numbers(segmentation) else segmentation
        points = [side for polygon in polygons for side in numbers(polygon)]
        left, top = min(points[::2]), min(points[1::2])
        return [left, top, max(points[::2]) - left, max(points[1::2]) - top]
    except (KeyError, TypeError, ValueError):
        return []
