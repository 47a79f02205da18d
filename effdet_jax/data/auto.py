"""`auto`: finds out by itself what a folder or file holds."""

import os
from collections.abc import Mapping
from typing import Any

from effdet_jax.data.coco import find_coco
from effdet_jax.data.example import Source
from effdet_jax.data.mask_folder import find_masks
from effdet_jax.data.splits import Find, Read, open_split
from effdet_jax.data.tables import find_tables
from effdet_jax.data.tfds import open_tfds
from effdet_jax.data.voc import find_voc
from effdet_jax.data.yolo import find_yolo

# Tried in this order; the first that finds training data is taken, else the first that finds any.
FINDS: dict[str, Find] = {
    "coco": find_coco,
    "voc": find_voc,
    "yolo": find_yolo,
    "csv": find_tables,
    "masks": find_masks,
}


def open_auto(split: str, options: Mapping[str, Any]) -> Source | None:
    """A split of whatever `dir` or the named annotations hold, an entry of `data.source.SOURCES`.

    Raises:
      DataError: nothing that is known is there; the message says what is.
    """
    if os.path.isfile(os.path.join(options["dir"], "features.json")):  # A prepared TFDS set.
        return open_tfds(split, options)
    return open_split(find_any, split, options)


def find_any(root: str) -> dict[str, Read]:
    """The splits of a folder or file of any kind in `FINDS`; {} if it is of none."""
    some: dict[str, Read] = {}
    for find in FINDS.values():
        found = find(root)
        if "train" in found:
            return found
        some = some or found
    return some
