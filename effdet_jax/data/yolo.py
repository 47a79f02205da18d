"""YOLO: a txt file per image, rows of 'class cx cy w h' or 'class x y x y …' in shares of the image.

Which images and what the classes are called stands in a YAML file, in darknet's `obj.data`, in lists
(`train.txt`) and `classes.txt`, or follows from the folders alone.
"""

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.fields import number
from effdet_jax.data.images import image_size
from effdet_jax.data.locate import SUFFIXES, Locator, list_files, list_images
from effdet_jax.data.records import Annotation, Record, RecordSource
from effdet_jax.data.splits import WORDS, Parsed, Read, by_split, open_split, split_of

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt")


def open_yolo(split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of a YOLO set, an entry of `data.source.SOURCES`; see `splits.open_split`."""
    return open_split(find_yolo, split, options)


def find_yolo(root: str) -> dict[str, Read]:
    """The splits of a YOLO folder, of its YAML file, or of a list of images."""
    if os.path.isfile(root) and not root.lower().endswith((".yaml", ".yml", ".data", ".txt")):
        return {}
    folder = root if os.path.isdir(root) else os.path.dirname(root) or "."
    if root.lower().endswith(".txt") and os.path.isfile(root):
        settings, splits = {}, {split_of(os.path.basename(root)) or "train": [root]}
    else:
        path = root if os.path.isfile(root) else _settings_file(root)
        settings = _settings(path) if path else {}
        splits = _named_splits(settings, folder) or _folder_splits(folder)
    names = _names(settings, folder)
    return {
        split: functools.partial(read_yolo, folder, places, names, settings)
        for split, places in splits.items()
    }


def _settings_file(folder: str) -> str:
    """The YAML or obj.data at the top of a folder that names its splits, '' if there is none."""
    paths = [
        os.path.join(folder, name) for name in list_files(folder, (".yaml", ".yml", ".data"), 0)
    ]
    return next((path for path in paths if _keys(_settings(path))), "")


def _settings(path: str) -> dict[str, Any]:
    """The keys of a YAML file, or of darknet's 'key = value' lines."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    if path.lower().endswith(".data"):
        pairs = [line.partition("=") for line in text.splitlines()]
        return {key.strip(): value.strip() for key, equals, value in pairs if equals}
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    return found if isinstance(found, dict) else {}


def _keys(settings: Mapping[str, Any]) -> dict[str, str]:
    """{split: key}: 'val' and 'valid' are the same."""
    return {
        split: key
        for split, words in reversed(WORDS.items())
        for key in words
        if settings.get(key) and isinstance(settings[key], str | list)
    }


def _named_splits(settings: Mapping[str, Any], folder: str) -> dict[str, list[str]]:
    """{split: its folders and lists} as the settings name them; those that aren't here are left out."""
    base = os.path.join(folder, str(settings.get("path") or ""))
    found = {}
    for split, key in _keys(settings).items():
        values = settings[key] if isinstance(settings[key], list) else [settings[key]]
        places = [place for value in values if (place := _place(str(value), base, folder))]
        if places:
            found[split] = places
    return found


def _place(value: str, base: str, folder: str) -> str:
    """A folder or list of the settings on this machine; '' if it isn't here."""
    parts = value.replace("\\", "/").strip("/").split("/")
    ends = [os.path.join(*parts[start:]) for start in range(len(parts))]
    # Roboflow writes '../train/images' for what lies beside the file, darknet 'data/train.txt'.
    names = [*ends[1:], value] if parts[0] == ".." else [value, *ends]
    tried = [os.path.join(root, name) for name in names for root in (base, folder)]
    return next((os.path.normpath(path) for path in tried if os.path.exists(path)), "")


def _folder_splits(folder: str) -> dict[str, list[str]]:
    """{split: its lists or images} where nothing names them; {} if no image has a label file."""
    lists = [os.path.join(folder, name) for name in list_files(folder, (".txt",), 0)]
    lists = [path for path in lists if split_of(os.path.basename(path)) and _is_list(path)]
    if lists:
        return {split_of(os.path.basename(path)): [path] for path in lists}
    images = list_images(folder)
    labels = filter(None, (_label_file(os.path.join(folder, name)) for name in images))
    if not any(map(_is_labels, itertools.islice(labels, 20))):
        return {}
    return {
        split: [os.path.join(folder, name) for name in names]
        for split, names in by_split(images, by_folder=True).items()
    }


def _is_list(path: str) -> bool:
    lines = _lines(path)
    return bool(lines) and lines[0].lower().endswith(SUFFIXES)


def _is_labels(path: str) -> bool:
    lines = _lines(path)
    return bool(lines) and len(lines[0].split()) >= 5 and None not in _row(lines[0])


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [line.strip() for line in file if line.strip()]


def _names(settings: Mapping[str, Any], folder: str) -> list[str]:
    """The names of the classes by index, [] if nothing gives them."""
    names = settings.get("names")
    if isinstance(names, str):  # darknet's path of a list.
        path = _place(names, folder, folder)
        return _lines(path) if path else []
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items()}
        return [by_index.get(index, f"class_{index}") for index in range(max(by_index) + 1)]
    if names:
        return [str(name) for name in names]
    files = {os.path.basename(path): path for path in list_files(folder, NAME_FILES, 2)}
    return next(
        (_lines(os.path.join(folder, files[name])) for name in NAME_FILES if name in files), []
    )


def read_yolo(
    folder: str,
    places: Sequence[str],
    names: Sequence[str],
    settings: Mapping[str, Any],
    images: str,
) -> Parsed:
    """Records of image files and the label files that belong to them.

    Args:
      folder: of the set; names of images are relative to it.
      places: folders of images, lists of images, and images.
      names: of the classes, by index; [] makes 'class_0' and so on.
      settings: of the YAML; `kpt_shape` says that key points follow a box.
      images: folder of the images instead of `places`, if not ''.
    """
    report, files = DataReport(), Locator(folder)
    paths = [path for place in ([images] if images else places) for path in _images(place)]
    paths = [files.find(os.path.relpath(path, folder)) or path for path in paths]
    labels = [_label_file(os.path.join(folder, path)) for path in paths]
    rows = [[(line, _row(line)) for line in _lines(path)] if path else [] for path in labels]
    highest = max((int(row[0]) for some in rows for _, row in some if row and row[0]), default=-1)
    if not names:
        names = [f"class_{index}" for index in range(highest + 1)] or ["class_0"]
        report.notes.append("nothing names the classes (data.yaml, classes.txt): class_0 and so on")
    missing = labels.count("")
    if missing:
        report.notes.append(f"{missing} images without a label file: taken as without objects")
    class_names = ClassNames.from_names([str(name) for name in names])
    index_of = class_names.index_of_name()
    columns = [index_of[name] for name in names]
    key_points = "kpt_shape" in settings
    records = [
        _record(folder, path, label, some, columns, key_points)
        for path, label, some in zip(paths, labels, rows)
    ]
    kind = f"{len(labels) - missing} YOLO label files for"
    return Parsed(
        records, class_names, folder, places[0] if len(places) == 1 else folder, kind, report
    )


def _images(place: str) -> list[str]:
    """Paths of a folder's images, of those that a list names, or of one image."""
    if os.path.isdir(place):
        return [os.path.join(place, name) for name in list_images(place)]
    if place.lower().endswith(".txt"):
        return [os.path.join(os.path.dirname(place), line) for line in _lines(place)]
    return [place]


def _label_file(image: str) -> str:
    """The label file of an image: below labels/ for images/, or beside it; '' if there is none."""
    stem = os.path.splitext(os.path.abspath(image))[0]
    before, images, after = stem.rpartition(f"{os.sep}images{os.sep}")
    above, name = os.path.split(stem)
    tried = [f"{before}{os.sep}labels{os.sep}{after}.txt"] if images else []
    tried += [f"{stem}.txt", os.path.join(os.path.dirname(above), "labels", f"{name}.txt")]
    tried.append(os.path.join(above, "labels", f"{name}.txt"))
    return next((path for path in tried if os.path.isfile(path)), "")


def _row(line: str) -> list[float | None]:
    return [number(word) for word in line.split()]


def _record(
    folder: str,
    name: str,
    label_file: str,
    rows: Sequence[tuple[str, list[float | None]]],
    columns: Sequence[int],
    key_points: bool,
) -> Record:
    try:
        height, width = image_size(os.path.join(folder, name))
    except DataError:
        return Record(name, name, None, [])  # The file is what is wrong, and is named as such.
    annotations = []
    for position, (line, row) in enumerate(rows, start=1):
        box = _box(row[:5] if key_points else row)
        if box is not None:
            box = (box[0] * height, box[1] * width, box[2] * height, box[3] * width)
        index = row[0]
        known = index is not None and index.is_integer() and 0 <= index < len(columns)
        where = f"{os.path.basename(label_file)}, line {position}: '{line[:60]}'"
        annotations.append(Annotation(box, columns[int(index)] if known else None, where))
    return Record(name, name, (height, width), annotations)


def _box(row: Sequence[float | None]) -> tuple[float, float, float, float] | None:
    """(ymin, xmin, ymax, xmax), shares of the image, of a box or around a polygon; None if neither."""
    if None in row:
        return None
    _, *sides = row
    if len(sides) in (4, 5):
        x, y, width, height = sides[:4]  # A detector's label has its score after them.
        return (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
    if len(sides) >= 6 and len(sides) % 2 == 0:
        xs, ys = sides[::2], sides[1::2]
        return (min(ys), min(xs), max(ys), max(xs))
    return None
