"""COCO-JSON folders: any ids, gaps, missing fields; bad boxes and files are counted and named."""

import dataclasses
import glob
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import (
    DataError,
    DataReport,
    Example,
    GroundTruth,
    make_truth,
    unreadable,
)
from effdet_jax.data.images import decode_image, image_size

# Where a split's JSON may lie below the data folder, first match wins.
LAYOUTS = (
    "{split}.json",
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
    "annotations/instances_{split}2017.json",
    "{split}/_annotations.coco.json",
)
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation", "test")}
# Opening every file of a larger set at the start would take longer than it is worth.
HEADERS_CHECKED = 20_000
MISSING_TOLERATED = 0.05


class CocoFolder:
    """Images and boxes of one split of a COCO-JSON folder, a `data.example.Source`.

    Args:
      annotations: path of the JSON.
      images: folder the `file_name`s are relative to; '' looks for it around the JSON.
      strict: any bad box or file is an error.

    Raises:
      DataError: the JSON isn't COCO's, nothing usable is in it, or too many images are missing.
    """

    endless = False

    def __init__(self, annotations: str, images: str = "", *, strict: bool = False):
        self.annotations = annotations
        self.report = DataReport()
        content = _read_json(annotations)
        try:
            self.class_names = ClassNames.from_categories(content["categories"])
        except ValueError as error:
            raise DataError(f"{annotations}: {error}") from error
        self._records = self._parse(content)
        self.images = images or _find_images(annotations, self._records)
        self._check_files()
        if strict and self.report.dropped:
            raise DataError(f"{annotations}: " + "\n  ".join(self.report.lines()))
        if not self._records:
            raise DataError(f"{annotations}: no usable images; " + "; ".join(self.report.lines()))
        self._count()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        name, truth = self._records[index]
        try:
            with open(os.path.join(self.images, name), "rb") as file:
                image = decode_image(file.read(), truth.size)
        except (OSError, DataError) as error:
            return unreadable(truth.image_id, truth.size, str(error))
        return Example(image, truth)

    def describe(self, index: int) -> str:
        name, truth = self._records[index]
        return f"image {truth.image_id} '{name}'"

    def ground_truth(self) -> Iterator[GroundTruth]:
        return (truth for _, truth in self._records)

    def _parse(self, content: dict[str, Any]) -> list[tuple[str, GroundTruth]]:
        boxes_of: dict[Any, list[dict[str, Any]]] = {}
        images, where = {}, os.path.basename(self.annotations)
        for image in content["images"]:
            if image["id"] in images:
                raise DataError(f"{self.annotations}: image id {image['id']!r} is listed twice")
            images[image["id"]] = image
            boxes_of[image["id"]] = []
        for position, annotation in enumerate(content["annotations"]):
            annotation.setdefault("id", position)
            if annotation.get("image_id") in boxes_of:
                boxes_of[annotation["image_id"]].append(annotation)
            else:
                self.report.drop(
                    "box of an image that isn't listed",
                    f"{where}: annotation {annotation['id']} of image {annotation.get('image_id')}",
                )
        return [
            (image["file_name"], self._truth(image, boxes_of[image["id"]]))
            for image in images.values()
        ]

    def _truth(self, image: dict[str, Any], annotations: list[dict[str, Any]]) -> GroundTruth:
        size = (int(image.get("height") or 0), int(image.get("width") or 0))
        index_of = self.class_names.index_of_id()
        rows = []
        for annotation in annotations:
            where = (
                f"{os.path.basename(self.annotations)}: image {image['id']} "
                f"'{image['file_name']}': annotation {annotation['id']} is "
                f"{annotation.get('bbox')}, category {annotation.get('category_id')}"
            )
            problem = _box_problem(annotation, size, index_of)
            if problem:
                self.report.drop(problem, where)
                continue
            x, y, width, height = annotation["bbox"]
            if all(size) and (
                min(x, y) < -1 or x + width > size[1] + 1 or y + height > size[0] + 1
            ):
                self.report.drop("box reaching out of its image (cut there)", where)
            rows.append(
                (
                    (y, x, y + height, x + width),
                    index_of[annotation["category_id"]],
                    bool(annotation.get("iscrowd", 0)),
                    float(annotation.get("area") or width * height),
                )
            )
        return make_truth(image["id"], size, rows)

    def _check_files(self):
        """Leaves out images whose file is missing, empty or no image; learns sizes not given."""
        listed, checked = len(self._records), []
        present = _Files(self.images)
        for name, truth in self._records:
            where = f"image {truth.image_id} '{name}'"
            if not present.holds(name):
                self.report.drop("image file is missing", where)
                continue
            size = truth.size
            if listed <= HEADERS_CHECKED or not all(size):
                try:
                    found = image_size(os.path.join(self.images, name))
                except DataError as error:
                    self.report.drop("image file can't be read", f"{where}: {error}")
                    continue
                if all(size) and found not in (size, size[::-1]):
                    self.report.drop(
                        "image of another size than its JSON says (the file counts)",
                        f"{where}: {found[1]}×{found[0]}, JSON says {size[1]}×{size[0]}",
                    )
                    size = found
                size = size if all(size) else found
            checked.append((name, dataclasses.replace(truth, size=size)))
        if listed > HEADERS_CHECKED:
            self.report.notes.append(
                f"file headers not checked: more than {HEADERS_CHECKED} images"
            )
        missing = listed - len(checked)
        if listed and missing > MISSING_TOLERATED * listed:
            raise DataError(
                f"{self.annotations}: {missing} of {listed} images can't be read in "
                f"'{self.images}': " + "; ".join(self.report.lines()[1:]) + ". If the images lie "
                "elsewhere, name their folder: --config.data.train_images=… / .val_images=…"
            )
        self._records = checked

    def _count(self):
        report = self.report
        report.images = len(self._records)
        report.boxes = sum(len(truth.boxes) for _, truth in self._records)
        report.crowd = sum(int(truth.crowd.sum()) for _, truth in self._records)
        report.empty = sum(not len(truth.boxes) for _, truth in self._records)
        if not report.boxes:
            raise DataError(
                f"{self.annotations}: none of its {report.images} images has a usable box; "
                + "; ".join(report.lines())
            )
        if report.crowd == report.boxes:
            report.notes.append("every box is a crowd (iscrowd: 1): nothing can be learned")


def open_coco(split: str, options: Mapping[str, Any]) -> CocoFolder:
    """A split of a COCO-JSON folder, an entry of `data.source.SOURCES`.

    Args:
      options: `dir`; `train_json` and `val_json`, '' finds them in `dir`; `train_images` and
        `val_images`, '' finds them around the JSON; `strict`.

    Raises:
      DataError: no annotations are found, or they can't be used.
    """
    annotations = options[f"{split}_json"] or find_annotations(options["dir"], split)
    return CocoFolder(annotations, options[f"{split}_images"], strict=options["strict"])


class _Files:
    """Which relative names exist under a folder, with one listing per folder instead of a stat."""

    def __init__(self, root: str):
        self._root = root
        self._listed: dict[str, set[str]] = {}

    def holds(self, name: str) -> bool:
        folder, base = os.path.split(os.path.join(self._root, name))
        if folder not in self._listed:
            self._listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return base in self._listed[folder]


def _box_problem(annotation: dict[str, Any], size: tuple[int, int], index_of: dict) -> str:
    """Why a box can't be used, '' if it can."""
    if annotation.get("category_id") not in index_of:
        return "box of a category that isn't listed"
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(
        isinstance(value, int | float) and math.isfinite(value) for value in box
    ):
        return "box that isn't four finite numbers"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return "box without width or height"
    if all(size) and (x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0):
        return "box outside its image"
    return ""


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise DataError(f"there is no annotation file '{path}'") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    keys = ("images", "annotations", "categories")
    missing = [
        key
        for key in keys
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise DataError(
            f"{path}: not a COCO detection file: it has no list {' and no list '.join(missing)}"
        )
    if not content["images"]:
        raise DataError(f"{path}: lists no images")
    if not content["annotations"]:
        raise DataError(f"{path}: has no boxes (annotations is empty)")
    return content


def find_annotations(folder: str, split: str) -> str:
    """Path of a split's JSON ('train' or 'val') in a folder of any layout of `LAYOUTS`.

    Raises:
      DataError: there is none; the message lists where it was looked for.
    """
    if not os.path.isdir(folder):
        raise DataError(f"data folder '{folder}' doesn't exist; set it: --config.data.dir=…")
    tried = [layout.format(split=name) for name in SPLIT_NAMES[split] for layout in LAYOUTS]
    for candidate in tried:
        if os.path.isfile(os.path.join(folder, candidate)):
            return os.path.join(folder, candidate)
    found = [
        os.path.relpath(path, folder) for path in glob.glob(f"{folder}/**/*.json", recursive=True)
    ]
    raise DataError(
        f"'{folder}' has no {split} annotations. Looked for {', '.join(tried)}. JSON files there: "
        f"{', '.join(sorted(found)[:8]) or 'none'}. Name it: --config.data.{split}_json=…"
    )


def _find_images(annotations: str, records: list[tuple[str, GroundTruth]]) -> str:
    """The folder around the JSON that holds most of a sample of the listed files."""
    here = os.path.dirname(os.path.abspath(annotations))
    stem = os.path.splitext(os.path.basename(annotations))[0].removeprefix("instances_")
    roots = [here, os.path.dirname(here)]
    candidates = [
        os.path.join(root, part)
        for root in roots
        for part in (stem, os.path.join("images", stem), "images", "")
    ]
    sample = [name for name, _ in records[:: max(1, len(records) // 50)]]

    def hits(folder: str) -> int:
        return sum(os.path.isfile(os.path.join(folder, name)) for name in sample)

    return max(candidates, key=hits)
