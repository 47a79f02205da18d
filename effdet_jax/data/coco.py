"""COCO-JSON folders: where their files lie, and their records; ids of any kind, gaps, missing fields."""

import glob
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from effdet_jax.classes import ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.records import Annotation, Record, RecordSource, check_options

# Where a split's JSON may lie below the data folder, first match wins.
LAYOUTS = (
    "{split}.json",
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
    "annotations/instances_{split}2017.json",
    "{split}/_annotations.coco.json",
)
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation", "test")}


class CocoFolder(RecordSource):
    """Images and boxes of one split of a COCO-JSON folder.

    Args:
      annotations: path of the JSON.
      images: folder the `file_name`s are relative to; '' looks for it around the JSON.
      **options: keywords of `RecordSource` that say how it checks.

    Raises:
      DataError: the JSON isn't COCO's, nothing usable is in it, or too many images are missing.
    """

    def __init__(self, annotations: str, images: str = "", **options: Any):
        content = _read_json(annotations)
        try:
            class_names = ClassNames.from_categories(content["categories"])
        except ValueError as error:
            raise DataError(f"{annotations}: {error}") from error
        report = DataReport()
        annotations_of = _by_image(content, annotations, report)
        names = [image["file_name"] for image in content["images"]]
        super().__init__(
            _records(content["images"], annotations_of, class_names),
            class_names,
            images or _find_images(annotations, names),
            name=annotations,
            report=report,
            **options,
        )


def open_coco(split: str, options: Mapping[str, Any]) -> CocoFolder:
    """A split of a COCO-JSON folder, an entry of `data.source.SOURCES`.

    Args:
      options: `dir`; `train_json` and `val_json`, '' finds them in `dir`; `train_images` and
        `val_images`, '' finds them around the JSON; those of `check_options`.

    Raises:
      DataError: no annotations are found, or they can't be used.
    """
    annotations = options[f"{split}_json"] or find_annotations(options["dir"], split)
    return CocoFolder(annotations, options[f"{split}_images"], **check_options(options))


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
    if not folder:
        raise DataError("no data folder is given: --config.data.dir=FOLDER")
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


def _by_image(
    content: dict[str, Any], path: str, report: DataReport
) -> dict[int | str, list[dict[str, Any]]]:
    """{image id: its annotations}, for every listed image."""
    annotations_of: dict[int | str, list[dict[str, Any]]] = {}
    for image in content["images"]:
        if image["id"] in annotations_of:
            raise DataError(f"{path}: image id {image['id']!r} is listed twice")
        annotations_of[image["id"]] = []
    for position, annotation in enumerate(content["annotations"]):
        annotation.setdefault("id", position)
        if annotation.get("image_id") in annotations_of:
            annotations_of[annotation["image_id"]].append(annotation)
        else:
            report.drop(
                "box of an image that isn't listed",
                f"{os.path.basename(path)}: annotation {annotation['id']} of image "
                f"{annotation.get('image_id')}",
            )
    return annotations_of


def _records(
    images: list[dict[str, Any]],
    annotations_of: Mapping[int | str, list[dict[str, Any]]],
    class_names: ClassNames,
) -> Iterator[Record]:
    index_of = class_names.index_of_id()
    for image in images:
        height, width = (int(image.get(side) or 0) for side in ("height", "width"))
        yield Record(
            image["id"],
            image["file_name"],
            (height, width) if height and width else None,
            [_annotation(row, index_of) for row in annotations_of[image["id"]]],
        )


def _annotation(row: dict[str, Any], index_of: Mapping[int, int]) -> Annotation:
    bbox, category = row.get("bbox"), row.get("category_id")
    try:
        x, y, width, height = bbox
        box, area = (y, x, y + height, x + width), row.get("area") or width * height
    except (TypeError, ValueError):  # No four numbers.
        box, area = None, None
    where = f"annotation {row['id']} is {bbox}, category {category}"
    return Annotation(box, index_of.get(category), where, bool(row.get("iscrowd", 0)), area)


def _find_images(annotations: str, names: list[str]) -> str:
    """The folder around the JSON that holds most of a sample of the listed files."""
    here = os.path.dirname(os.path.abspath(annotations))
    stem = os.path.splitext(os.path.basename(annotations))[0].removeprefix("instances_")
    roots = [here, os.path.dirname(here)]
    candidates = [
        os.path.join(root, part)
        for root in roots
        for part in (stem, os.path.join("images", stem), "images", "")
    ]
    sample = names[:: max(1, len(names) // 50)]

    def hits(folder: str) -> int:
        return sum(os.path.isfile(os.path.join(folder, name)) for name in sample)

    return max(candidates, key=hits)
