"""Folders of images and of masks with the same names: Oxford-IIIT Pet, VOC, ADE20K, one's own.

A mask is an indexed or grey picture, the value of a pixel its class. `classes.txt`, beside the images or
beside the masks, names the values: a line per name, or lines such as '3 border'. 'background' is no
class, 'void' and 'ignore' aren't judged. Without such a file 0 is background and 255 is ignored.
"""

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from effdet_jax.classes import BACKGROUND, IGNORED_PIXEL, ClassNames
from effdet_jax.data.example import DataError, DataReport
from effdet_jax.data.headers import read_headers
from effdet_jax.data.images import Header
from effdet_jax.data.locate import list_files, list_images
from effdet_jax.data.masks import MaskFile, read_values
from effdet_jax.data.records import Record, RecordSource
from effdet_jax.data.splits import Parsed, Read, by_split, open_split, split_of

# Names of folders, whatever the case.
IMAGE_FOLDERS = ("images", "image", "imgs", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "trimaps", "segmentationclass", "annotations")
CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
LIST_FOLDERS = ("", "annotations", "ImageSets/Segmentation")
_BACKGROUND, _IGNORED = ("background", "_background_"), ("void", "ignore", "ignored", "unlabeled")
_SAMPLED, _THREADS = 500, 4  # Masks that are read at the start where a file names the classes.


def open_masks(split: str, options: Mapping[str, Any]) -> RecordSource | None:
    """A split of a folder with masks, an entry of `data.source.SOURCES`; see `splits.open_split`."""
    return open_split(find_masks, split, options)


def find_masks(root: str) -> dict[str, Read]:
    """The splits that lists of names or the folders of images make; {} without masks."""
    if not os.path.isdir(root):
        return {}
    masks = {_key(path): path for path in list_files(root, (".png",)) if _is_mask(path)}
    images = [path for path in list_images(root) if not _is_mask(path)]
    if not any(_key(path) in masks for path in images):
        return {}
    splits = _lists(root, images) or by_split(images, by_folder=True)
    return {
        split: functools.partial(read_masks, root, paths, masks) for split, paths in splits.items()
    }


def _is_mask(path: str) -> bool:
    return any(part.lower() in MASK_FOLDERS for part in path.split(os.sep)[:-1])


def _key(path: str) -> str:
    """What an image and its mask share: 'train/a' of 'images/train/a.jpg' and 'train/masks/a.png'."""
    *folders, name = path.split(os.sep)
    folders = [part for part in folders if part.lower() not in IMAGE_FOLDERS + MASK_FOLDERS]
    return "/".join([*folders, os.path.splitext(name)[0].removesuffix("_mask")])


def _lists(root: str, images: Sequence[str]) -> dict[str, list[str]]:
    """{split: images} by lists such as trainval.txt, the first word of a line an image's name."""
    at = {os.path.basename(_key(path)): path for path in images}
    found: dict[str, list[str]] = {}
    for folder in LIST_FOLDERS:
        here = os.path.join(root, folder)
        names = sorted(os.listdir(here)) if os.path.isdir(here) else []
        lists = [name for name in names if name.endswith(".txt") and split_of(name)]
        for name in sorted(lists, key=lambda name: "trainval" in name):  # Without a 'train'.
            with open(os.path.join(here, name), encoding="utf-8-sig") as file:
                words = [line.split()[0] for line in file if line.strip()]
            listed = [at[word] for word in words if word in at]
            if listed:
                found.setdefault(split_of(name), listed)
    return found


def read_masks(root: str, paths: Sequence[str], masks: Mapping[str, str], images: str) -> Parsed:
    """Records of images with a mask.

    Args:
      root: folder of the set.
      paths: of the images, below it.
      masks: {key of an image: path of its mask below `root`}.
      images: another folder with the same images below it; '' for `root`.

    Raises:
      DataError: masks are in colours, or the file of classes names none.
    """
    report, names = DataReport(), [path for path in paths if _key(path) in masks]
    for path in sorted(set(paths) - set(names)):
        report.drop("image without a mask", path)
    files = [os.path.join(root, masks[_key(path)]) for path in names]
    meaning, class_names = _classes(root, files, report)
    headers = read_headers(dict(enumerate(files)))
    records = []
    for number, (name, file) in enumerate(zip(names, files)):
        if not isinstance(header := headers[number], Header):
            report.drop("mask that can't be read", f"{file}: {header}")
            continue
        records.append(Record(name, name, header.stored, [], MaskFile(file, meaning)))
    kind = f"{len(records)} images with masks in"
    return Parsed(records, class_names, images or root, root, kind, report)


def _classes(root: str, files: Sequence[str], report: DataReport) -> tuple[np.ndarray, ClassNames]:
    """([256] what each value of the files is in a mask, the classes); says where they are from."""
    folders = dict.fromkeys([root, *map(os.path.dirname, files)])
    paths = [os.path.join(folder, name) for folder in folders for name in CLASS_FILES]
    path = next((path for path in paths if os.path.isfile(path)), "")
    sample = files[:: max(1, len(files) // _SAMPLED)] if path else files
    found = _values(sample)
    names = _read_names(path) if path else _number(found)
    classes = {v: name for v, name in names.items() if name.lower() not in _BACKGROUND + _IGNORED}
    if not classes:
        raise DataError(f"{path or root}: no value of the masks is a class: {sorted(found)}")
    meaning = np.full(256, IGNORED_PIXEL, np.uint8)
    meaning[[v for v, name in names.items() if name.lower() in _BACKGROUND]] = BACKGROUND
    for index, value in enumerate(classes):
        meaning[value] = 1 + index
    for value in sorted(set(found) - set(names) - {IGNORED_PIXEL}):
        where = f"{found[value]} has {value}"
        report.drop("value of masks that no class has (its pixels are ignored)", where)
    looked = f"{len(sample)} of {len(files)} masks looked through"
    shown = ", ".join(f"{value} {name}" for value, name in list(names.items())[:8])
    report.notes.append(f"classes of {path or 'the values that occur'}: {shown}; {looked}")
    return meaning, ClassNames(tuple(classes.values()), tuple(classes))


def _values(files: Sequence[str]) -> dict[int, str]:
    """{value: first file that has it} of masks; those that can't be read are left out."""

    def look(file: str) -> Iterable[int]:
        try:
            return np.flatnonzero(np.bincount(read_values(file).reshape(-1))).tolist()
        except OSError:
            return ()

    found: dict[int, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, values in zip(files, pool.map(look, files)):
            for value in values:
                found.setdefault(value, file)
    return found


def _number(found: Iterable[int]) -> dict[int, str]:
    """Names of values that nothing names; of masks of 0 and 255 alone, 255 is the object."""
    binary = set(found) <= {BACKGROUND, IGNORED_PIXEL}
    numbered = {v: f"class {v}" for v in sorted(found) if binary or v != IGNORED_PIXEL}
    return numbered | {BACKGROUND: "background"}


def _read_names(path: str) -> dict[int, str]:
    """{value: name} of a file of classes, see this module."""
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file if line.strip()]
    numbered = [re.fullmatch(r"(\d{1,3})\s*[:,;=\s]\s*(\S.*)", line) for line in lines]
    if all(numbered):
        names = {int(one[1]): one[2].strip() for one in numbered}
        if len(names) < len(lines) or max(names, default=0) > IGNORED_PIXEL:
            raise DataError(f"{path}: values are named twice, or above {IGNORED_PIXEL}")
        return names
    if lines[0].lower() not in _BACKGROUND:
        lines = ["background", *lines]
    return dict(enumerate(lines))
