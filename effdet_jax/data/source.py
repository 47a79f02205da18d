"""The door for data: `SOURCES` says by name how the examples of a split are opened."""

from collections.abc import Callable, Mapping
from typing import Any

from effdet_jax.data.auto import open_auto
from effdet_jax.data.check import check_training
from effdet_jax.data.coco import open_coco
from effdet_jax.data.example import DataError, Source
from effdet_jax.data.folders import open_folders
from effdet_jax.data.mask_folder import open_masks
from effdet_jax.data.synthetic import open_shapes
from effdet_jax.data.tables import open_tables
from effdet_jax.data.tfds import open_tfds
from effdet_jax.data.voc import open_voc
from effdet_jax.data.yolo import open_yolo

# name → (split, options) → source, None where the data has no such split; a new kind of data is a
# file and a line here.
#   split: 'train' or 'val'.
#   options: the values below `config.data`: dir, train_json, strict, …, and `needs`, what examples
#     must have: 'boxes', 'masks', or both.
SOURCES: dict[str, Callable[[str, Mapping[str, Any]], Source | None]] = {
    "auto": open_auto,
    "coco": open_coco,
    "voc": open_voc,
    "yolo": open_yolo,
    "csv": open_tables,
    "masks": open_masks,
    "tfds": open_tfds,
    "folders": open_folders,
    "shapes": open_shapes,
}


def open_source(name: str, split: str, options: Mapping[str, Any]) -> Source | None:
    """The examples of a split, 'train' or 'val', by the entry `name` of `SOURCES`; None without it.

    Raises:
      DataError: there is no such entry, or the data can't be used.
    """
    if name not in SOURCES:
        known = ", ".join(repr(known) for known in SOURCES)
        raise DataError(f"--config.data.source={name!r} isn't one of {known}")
    source = SOURCES[name](split, options)
    if split == "train":
        check_training(source, tolerate=options["tolerate"])
    return source
