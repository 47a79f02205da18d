"""Sources and data folders that tests stand in for real ones."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image

from effdet_jax.classes import ClassNames
from effdet_jax.config import get_config
from effdet_jax.data.example import DataReport, Example, make_truth, unreadable
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.objective import create_objective
from effdet_jax.model.detector import Detector


class Images:
    """Images of one grey level each, the level being the index, with one box; some are broken."""

    endless = False

    def __init__(self, length, broken=()):
        self.class_names = ClassNames(("cat",), (7,))
        self.report = DataReport()
        self._length, self._broken = length, broken

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        truth = self._truth(index)
        if index in self._broken:
            return unreadable(truth.image_id, truth.size, "broken")
        return Example(np.full((30, 40, 3), index, np.uint8), truth)

    def _truth(self, index):
        return make_truth(f"{index}.png", (30, 40), [((5.0, 10.0, 25.0, 30.0), 0, False, 400.0)])

    def describe(self, index):
        return f"image {index}"

    def ground_truth(self):
        return (self._truth(index) for index in range(len(self)))


class Numbers:
    """`count` examples of 20×30 whose pixels and box tell their index."""

    class_names, report, endless = ClassNames(("a", "b"), (1, 2)), None, False

    def __init__(self, count=13, broken=(), boxes=1):
        self._count, self._broken, self._boxes = count, set(broken), boxes

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index in self._broken:
            return unreadable(index, (20, 30), "broken")
        rows = [((2, 3, 12, 13), index % 2, False, 100.0)] * self._boxes
        return Example(np.full((20, 30, 3), index, np.uint8), make_truth(index, (20, 30), rows))

    def describe(self, index):
        return f"number {index}"

    def ground_truth(self):
        return (self[index].truth for index in range(self._count))


class WhiteCells(Detector):
    """A network without weights: finds the first anchor of every cell of the pyramid that is white.

    Its logits are 20 · the cell's mean - 10: 10 for white, less than -10 for black and for padding.
    """

    def apply(self, variables, images):
        outputs = Outputs({}, {})
        for level, anchors in create_objective(self.spec).anchors.items():
            rows, columns, number = anchors.shape[:3]
            cells = images.reshape(len(images), rows, 2**level, columns, 2**level, 3)
            logits = 20 * cells.mean((2, 4, 5))[..., None, None] - 10.0
            first = (jnp.arange(number) == 0)[:, None]
            logits = jnp.where(first, logits, -30.0)  # [B, H, W, A, 1]
            outputs.class_logits[level] = jnp.tile(logits, self.spec.num_classes)
            outputs.box_deltas[level] = jnp.zeros((*logits.shape[:-1], 4))
        return outputs


class Truths:
    """Images of one size from rows of (yxyx box, class index, crowd, area), counted as files are."""

    def __init__(self, images, names=("cat", "dog"), size=(100, 200), endless=False):
        self.class_names, self.endless = ClassNames.from_names(names), endless
        self._images, self._size = images, size
        self.report = DataReport()
        self.report.boxes = 0 if endless else sum(len(rows) for rows in images)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        truth = make_truth(index, self._size, self._images[index % len(self)])
        return Example(np.zeros((*self._size, 3), np.uint8), truth)

    def describe(self, index):
        return f"image {index}"

    def ground_truth(self):
        return (self[index].truth for index in range(len(self)))


def row(label, box=(0.0, 0.0, 10.0, 10.0), *, crowd=False):
    """A row of `Truths`."""
    return (box, label, crowd, 100.0)


def source_options(**changes):
    """What an entry of `SOURCES` is called with: the values below `config.data`."""
    return get_config().data.to_dict() | changes


def make_folder(root: pathlib.Path, **changes):
    """A sound data set of 3 images of 40×30 with a box each; `changes` replace top-level keys."""
    (root / "images").mkdir(exist_ok=True)
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30}
            for number in range(3)
        ],
        "annotations": [
            {"id": 10 + number, "image_id": number, "category_id": 5, "bbox": [4, 6, 20, 10]}
            for number in range(3)
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for image in content["images"]:
        Image.new("RGB", (40, 30), (image["id"], 0, 0)).save(root / "images" / image["file_name"])
    content |= changes
    (root / "train.json").write_text(json.dumps(content))
    return content
