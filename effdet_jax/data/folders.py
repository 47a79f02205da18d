"""`folders`: images to classify, a folder for each class: `train/cat/1.jpg`, or `cat/1.jpg`."""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
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
from effdet_jax.data.images import Intensity, decode_image
from effdet_jax.data.locate import SUFFIXES
from effdet_jax.data.splits import WORDS, draw

UNREAD = (1, 1)  # Size of an image that hasn't been opened: its class is a box around all of it.


class FolderReport(DataReport):
    """Counts images and classes; each image's class counts as a box."""

    def lines(self) -> list[str]:
        first, *others = super().lines()
        del first
        return [f"{self.images} images of {len(self.classes)} classes, a folder each", *others]


class FolderSource:
    """Images of classes, a `data.example.Source`: each has one box, around all of it.

    Files are opened when they are read; one that can't be is found then.

    Args:
      files: (path, class index) of each image.
      class_names: what the indices mean.
      root: folder that ids are relative to.
      intensity: (low, high) of 16-bit images, see `decode_image`.

    Attributes:
      paths: image files, in order.
    """

    endless = False

    def __init__(
        self,
        files: Sequence[tuple[str, int]],
        class_names: ClassNames,
        root: str,
        *,
        intensity: Intensity = (),
    ):
        self.class_names, self.intensity = class_names, intensity
        self._files, self._root = list(files), root
        self.paths = [path for path, _ in files]
        self.report = FolderReport()
        self.report.images = self.report.boxes = len(files)
        counts = collections.Counter(label for _, label in files)
        names = class_names.names
        self.report.classes = {name: counts[index] for index, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        try:
            with open(path, "rb") as file:
                image = decode_image(file.read(), intensity=self.intensity)
        except (OSError, DataError) as error:
            return unreadable(self._id(index), UNREAD, str(error))
        return Example(image, whole_image(self._id(index), image.shape[:2], label))

    def describe(self, index: int) -> str:
        return f"image '{self._files[index][0]}'"

    def ground_truth(self) -> Iterator[GroundTruth]:
        """Sizes aren't known without opening the files: they are `UNREAD`."""
        for index, (_, label) in enumerate(self._files):
            yield whole_image(self._id(index), UNREAD, label)

    def _id(self, index: int) -> str:
        return os.path.relpath(self.paths[index], self._root)


def whole_image(image_id: int | str, size: tuple[int, int], label: int) -> GroundTruth:
    """The ground truth of an image that is of a class: a box around all of it."""
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    return make_truth(image_id, size, [(box, label, False, float(size[0] * size[1]))])


def open_folders(split: str, options: Mapping[str, Any]) -> FolderSource | None:
    """A split of a folder of classes, an entry of `data.source.SOURCES`.

    Folders named train and val (or as `splits.WORDS` has them) hold the splits. Without one for
    validation, `val_fraction` of the images are drawn for it. Classes are in alphabetical order.

    Args:
      options: `dir`, `val_fraction`, `intensity`.

    Raises:
      DataError: there is no such folder, or no image in it.
    """
    root = options["dir"]
    if not os.path.isdir(root):
        raise DataError(f"data folder '{root}' doesn't exist; set it: --config.data.dir=…")
    splits, note = _split_folders(root), ""
    if "val" not in splits and "test" in splits:
        splits["val"] = splits["test"]
        note = "no split is named val: test is taken for it"
    draws = "val" not in splits and options["val_fraction"] > 0
    if split == "val" and "val" not in splits and not draws:
        return None
    folder = splits.get(split, splits.get("train", root))
    files, names = _images_by_class(folder)
    if not files:
        raise DataError(
            f"'{folder}' has no folder with images in it; a folder for each class is needed, as "
            "train/cat/1.jpg and val/cat/2.jpg, or cat/1.jpg alone"
        )
    if draws:
        held = draw([os.path.relpath(path, folder) for path, _ in files], options["val_fraction"])
        note = f"no validation split: {len(held)} of {len(files)} images are drawn for it"
        files = [
            (path, label)
            for path, label in files
            if (os.path.relpath(path, folder) in held) == (split == "val")
        ]
    source = FolderSource(files, names, folder, intensity=options["intensity"])
    source.report.notes.append(f"folders in {folder}" + (f"; {note}" if note else ""))
    return source


def _split_folders(root: str) -> dict[str, str]:
    """{'train': its folder, …} of a folder that has any for training; {} if its folders are classes."""
    there = {name.lower(): name for name in os.listdir(root)}
    splits = {
        split: os.path.join(root, there[word])
        for split, words in WORDS.items()
        for word in reversed(words)
        if word in there
    }
    return splits if "train" in splits else {}


def _images_by_class(folder: str) -> tuple[list[tuple[str, int]], ClassNames]:
    """(path, class index) of all images below a folder's folders, and these folders' names."""
    names, files = [], []
    for name in sorted(os.listdir(folder)):
        found = sorted(
            os.path.join(where, file)
            for where, _, inside in os.walk(os.path.join(folder, name))
            for file in inside
            if file.lower().endswith(SUFFIXES)
        )
        if found:
            files += [(path, len(names)) for path in found]
            names.append(name)
    return files, ClassNames.from_names(names) if names else ClassNames.numbered(1)
