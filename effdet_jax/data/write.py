"""Data sets written in another format: boxes exact to the pixel, images copied.

What a format can't say is left out and counted: YOLO has no crowds, VOC no ids.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml
from PIL import Image

from effdet_jax.data.example import DataError, GroundTruth, Source, coco_dataset
from effdet_jax.data.images import image_size
from effdet_jax.files import put_in_place


class Item(NamedTuple):
    """An image to write.

    Attributes:
      name: of its file in the new set; no other image has the same without the ending.
      truth: its boxes.
    """

    name: str
    truth: GroundTruth


def write_dataset(sources: Mapping[str, Source], kind: str, out: str) -> list[str]:
    """Writes the splits of a data set in the format `kind`, and copies the images.

    An image whose boxes count its pixels as they are stored, before its EXIF orientation, is written
    as a PNG without one: programs differ in which they take.

    Args:
      sources: by split, of files.
      kind: an entry of `WRITERS`.
      out: folder to make; it may be there if it is empty.

    Returns:
      Lines to print: what was written, and what was left out.

    Raises:
      DataError: there is no such format, or a source has no files.
      DestinationError: `out` isn't empty, or can't be written.
    """
    if kind not in WRITERS:
        raise DataError(f"--write={kind} isn't one of {', '.join(WRITERS)}")
    for split, source in sources.items():
        if not hasattr(source, "paths"):
            raise DataError(f"the {split} data are no files, and are written in no other format")
    empty = os.path.isdir(out) and not os.listdir(out)
    folder_of, write = WRITERS[kind]
    items = _named(sources)
    with put_in_place(out, overwrite=empty) as folder:
        turned = sum(
            _copy(source, index, item, os.path.join(folder, folder_of.format(split=split)))
            for split, source in sources.items()
            for index, item in enumerate(items[split])
        )
        lines = write(folder, items, sources)
    counts = ", ".join(f"{len(some)} images of {split}" for split, some in items.items())
    if turned:
        lines.append(
            f"{turned} images whose boxes disregard their EXIF orientation: as PNG without"
        )
    return [f"wrote {out} ({kind}): {counts}, copied", *lines]


def _named(sources: Mapping[str, Source]) -> dict[str, list[Item]]:
    """The images of each split with the names that they get."""
    taken: set[str] = set()
    items: dict[str, list[Item]] = {}
    for split, source in sources.items():
        items[split] = []
        for path, truth in zip(source.paths, source.ground_truth()):
            stem, ending = os.path.splitext(os.path.basename(path))
            if _is_turned(path, truth):
                ending = ".png"
            name, number = stem, 1
            while name.lower() in taken:
                number += 1
                name = f"{stem}_{number}"
            taken.add(name.lower())
            items[split].append(Item(name + ending, truth))
    return items


def _is_turned(path: str, truth: GroundTruth) -> bool:
    return image_size(path) != tuple(truth.size)


def _copy(source: Source, index: int, item: Item, folder: str) -> bool:
    """Copies an image; whether it had to be written anew, without its EXIF orientation."""
    os.makedirs(folder, exist_ok=True)
    path, target = source.paths[index], os.path.join(folder, item.name)
    turned = _is_turned(path, item.truth)
    if turned:
        Image.fromarray(source[index].image).save(target)
    else:
        shutil.copyfile(path, target)
    return turned


def _write_coco(
    folder: str, items: Mapping[str, Sequence[Item]], sources: Mapping[str, Source]
) -> list[str]:
    """annotations/instances_SPLIT.json; ids, areas and crowds as they are."""
    os.makedirs(os.path.join(folder, "annotations"))
    for split, some in items.items():
        content = coco_dataset((item.truth for item in some), sources[split].class_names)
        for image, item in zip(content["images"], some):
            image["file_name"] = item.name
        path = os.path.join(folder, "annotations", f"instances_{split}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
    return []


def _write_voc(
    folder: str, items: Mapping[str, Sequence[Item]], sources: Mapping[str, Source]
) -> list[str]:
    """The devkit's folders; pixels count from 1 and the last one is meant; crowds are difficult."""
    lists = os.path.join(folder, "ImageSets", "Main")
    os.makedirs(lists)
    os.makedirs(os.path.join(folder, "Annotations"))
    for split, some in items.items():
        stems = [os.path.splitext(item.name)[0] for item in some]
        with open(os.path.join(lists, f"{split}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{stem}\n" for stem in stems)
        for stem, item in zip(stems, some):
            tree = ElementTree.ElementTree(_xml(item, sources[split].class_names.names))
            ElementTree.indent(tree)
            tree.write(os.path.join(folder, "Annotations", f"{stem}.xml"), encoding="utf-8")
    return ["ids of images and classes aren't in this format: names stand for them"]


def _xml(item: Item, names: Sequence[str]) -> ElementTree.Element:
    """An image's annotation element."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", item.name)
    size = ElementTree.SubElement(root, "size")
    for what, value in zip(("width", "height", "depth"), (*reversed(item.truth.size), 3)):
        _add(size, what, value)
    for box, label, crowd in zip(item.truth.boxes.tolist(), item.truth.labels, item.truth.crowd):
        top, left, bottom, right = box
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", names[label])
        _add(element, "difficult", int(crowd))
        sides = ElementTree.SubElement(element, "bndbox")
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        for what, value in corners.items():
            _add(sides, what, int(value) if value.is_integer() else value)
    return root


def _add(parent: ElementTree.Element, name: str, value: Any):
    ElementTree.SubElement(parent, name).text = str(value)


def _write_yolo(
    folder: str, items: Mapping[str, Sequence[Item]], sources: Mapping[str, Source]
) -> list[str]:
    """labels/SPLIT/*.txt and data.yaml; numbers have all their digits."""
    crowds = 0
    names = list(dict.fromkeys(name for one in sources.values() for name in one.class_names.names))
    for split, some in items.items():
        labels = os.path.join(folder, "labels", split)
        os.makedirs(labels)
        column = [names.index(name) for name in sources[split].class_names.names]
        for item in some:
            (height, width), truth = item.truth.size, item.truth
            rows = []
            for box, label, crowd in zip(truth.boxes.tolist(), truth.labels, truth.crowd):
                top, left, bottom, right = box
                crowds += bool(crowd)
                centre = f"{(left + right) / 2 / width!r} {(top + bottom) / 2 / height!r}"
                sides = f"{(right - left) / width!r} {(bottom - top) / height!r}"
                rows += [] if crowd else [f"{column[label]} {centre} {sides}\n"]
            path = os.path.join(labels, f"{os.path.splitext(item.name)[0]}.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(rows)
    settings = {split: f"images/{split}" for split in items}
    settings["names"] = dict(enumerate(names))
    with open(os.path.join(folder, "data.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, allow_unicode=True, sort_keys=False)
    return [f"{crowds} crowd boxes left out: this format has none"] if crowds else []


# name → (folder of a split's images, how the annotations are written).
Write = Callable[[str, Mapping[str, Sequence[Item]], Mapping[str, Source]], list[str]]
WRITERS: dict[str, tuple[str, Write]] = {
    "coco": ("{split}", _write_coco),
    "voc": ("JPEGImages", _write_voc),
    "yolo": ("images/{split}", _write_yolo),
}
