"""The splits of a data set: found under their usual names, named by knobs, or drawn.

A format's `find_…` says which splits a folder or file holds and how each is read; the rest, the same
for every format, is here.
"""

import collections
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.locate import list_files
from effdet_jax.data.masks import MaskedSource
from effdet_jax.data.records import Record, RecordSource, check_options

# Words that name a split, whatever digits follow: 'train2017', 'instances_Train', 'valid'.
WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Folders of images: WORDS as people spell them.
IMAGE_FOLDERS = tuple(
    form
    for words in WORDS.values()
    for word in words
    for form in (word, word.capitalize(), f"{word}2017")
)


class Parsed(NamedTuple):
    """A split as its format's reader gives it, not yet checked.

    Attributes:
      records: one per image.
      class_names: what their labels mean.
      images: folder that the file names are relative to.
      path: of the annotations.
      kind: of the annotations, for the banner: 'COCO JSON'.
      report: what the reader has left out or changed.
    """

    records: list[Record]
    class_names: ClassNames
    images: str
    path: str
    kind: str
    report: DataReport


# images folder ('' looks for it) → the split.
Read = Callable[[str], Parsed]
# folder or file → its splits, 'train', 'val', 'test'; none if it is of another kind.
Find = Callable[[str], dict[str, Read]]


def split_of(path: str) -> str:
    """'train', 'val', 'test' or '' by the words of a file's name, else of its folders, last first."""
    for part in reversed(os.path.splitext(path)[0].split(os.sep)):
        words = {word.lower() for word in re.findall("[A-Za-z]+", part)}
        named = [split for split, known in WORDS.items() if words.intersection(known)]
        if len(named) == 1:
            return named[0]
    return ""


def by_split(paths: Iterable[str], *, by_folder: bool = False) -> dict[str, list[str]]:
    """Paths by the split that they, or their folders alone, name; those that name none are training
    data, if nothing else is."""
    found = collections.defaultdict(list)
    for path in paths:
        found[split_of(os.path.dirname(path) if by_folder else path)].append(path)
    unnamed = found.pop("", [])
    if unnamed and "train" not in found:
        found["train"] = unnamed
    return dict(found)


def open_split(find: Find, split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of a data set, checked; None if it has no such split and none is to be drawn.

    A set without validation images lends some of its training images, `val_fraction` of them.

    Args:
      find: of one format, or of all.
      split: 'train', 'val', or 'test'.
      options: the values below `config.data`: `dir`, `train_json`, `val_json`, `train_images`,
        `val_images`, `val_fraction`, those of `check_options`, and `needs`, see `source.SOURCES`.

    Raises:
      DataError: nothing is found, or it can't be used.
    """
    found, note = _find_splits(find, options), ""
    if "val" not in found and "test" in found:
        found["val"] = found.pop("test")
        note = "no split is named val: test is taken for it" if split == "val" else ""
    draws = "val" not in found and options["val_fraction"] > 0
    if split == "val" and draws and "train" in found:
        parsed = found["train"](options["train_images"])
    elif split in found:
        parsed = found[split](options.get(f"{split}_images", ""))
    elif split == "train" or not found:
        raise DataError(_nothing_found(options["dir"], found))
    else:
        return None
    if draws:
        return _drawn(parsed, split, options)
    return _checked(parsed, split, note, options)


def _find_splits(find: Find, options: Mapping[str, Any]) -> dict[str, Read]:
    """{split: how to read it}: those of `dir`, and those that knobs name."""
    folder = options["dir"]
    if folder and not os.path.exists(folder):
        raise DataError(f"data folder '{folder}' doesn't exist; set it: --config.data.dir=…")
    found = find(folder) if folder else {}
    for split in ("train", "val"):
        if named := options[f"{split}_json"]:
            if not os.path.exists(named):
                raise DataError(f"there is no annotation file '{named}' (data.{split}_json)")
            here = find(named)
            if not here:
                raise DataError(_nothing_found(named, here))
            found[split] = here.get(split) or next(iter(here.values()))
    return found


def _drawn(parsed: Parsed, split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """The training or the validation part of a set that has no validation images."""
    fraction = options["val_fraction"]
    held = draw([record.file_name for record in parsed.records], fraction)
    note = (
        f"no validation split: {len(held)} of {len(parsed.records)} images are drawn for it "
        f"(--config.data.val_fraction={fraction:g})"
    )
    if not held:
        note = f"no validation split, and too few images to draw one: {len(parsed.records)}"
        return _checked(parsed, split, note, options) if split == "train" else None
    mine = [r for r in parsed.records if (r.file_name in held) == (split == "val")]
    return _checked(parsed._replace(records=mine), split, note, options)


def draw(names: Iterable[str], fraction: float) -> set[str]:
    """The file names drawn for validation: those whose hashes come first, whatever their order.

    Copies of one image (Roboflow's 'name.rf.HASH.jpg') stay together. At least one image is drawn
    and at least one left, or none if there is only one.
    """
    copies = collections.defaultdict(set)
    for name in names:
        copies[re.sub(r"\.rf\.[0-9a-zA-Z]+\.[a-z]+$", "", name)].add(name)
    order = sorted(copies, key=lambda name: hashlib.sha256(name.encode()).digest())
    wanted, drawn = fraction * sum(map(len, copies.values())), set()
    for original in order[:-1]:
        if drawn and len(drawn) + len(copies[original]) > wanted:
            break
        drawn |= copies[original]
    return drawn


def _checked(parsed: Parsed, split: str, note: str, options: Mapping[str, Any]) -> RecordSource:
    report = parsed.report
    report.notes.insert(0, f"{parsed.kind} {parsed.path}, images in {parsed.images}")
    if note:
        report.notes.insert(1, note)
    needs = options.get("needs", ("boxes",))
    create = MaskedSource if "masks" in needs else RecordSource
    return create(
        parsed.records,
        parsed.class_names,
        parsed.images,
        name=parsed.path,
        report=report,
        needs_boxes=split == "train" and "boxes" in needs,
        **check_options(options),
    )


def _nothing_found(path: str, found: Iterable[str]) -> str:
    """What to say where no training data is found: what is there instead."""
    if not path:
        return "no data folder is given: --config.data.dir=FOLDER"
    if found:
        return (
            f"'{path}' has {' and '.join(found)} annotations but none for training. Name them: "
            "--config.data.train_json=…"
        )
    files = list_files(path, ("",), depth=3) if os.path.isdir(path) else []
    endings = collections.Counter(
        os.path.splitext(name)[1].lower() or "no ending" for name in files
    )
    there = ", ".join(f"{count} × {ending}" for ending, count in endings.most_common(6))
    named = [name for name in files if name.lower().endswith((".json", ".yaml", ".csv", ".xml"))]
    return (
        f"'{path}' holds no detection set that is known here: COCO JSON (train.json, "
        "annotations/instances_train.json, train/_annotations.coco.json, or one JSON alone), Pascal "
        "VOC XML, YOLO (data.yaml, labels/*.txt), CSV, TFDS (array_record). It holds "
        f"{there or 'nothing'}{': ' if named else ''}{', '.join(named[:8])}. Name the annotations: "
        "--config.data.train_json=…"
    )
