"""COCO's twelve numbers and the AP of every class, by pycocotools."""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet_jax.classes import ClassNames

# In the order pycocotools prints them.
METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CocoMetrics:
    """Result of an evaluation; -1 where there is no ground truth of that kind, as in pycocotools.

    Attributes:
      summary: {'AP': …, 'AP50': …, …}, the twelve of `METRICS`.
      per_class: {class name: AP}, classes with ground truth only.
      num_images: images evaluated.
      num_boxes: of the ground truth, crowds among them.
    """

    summary: dict[str, float]
    per_class: dict[str, float]
    num_images: int
    num_boxes: int

    def lines(self) -> list[str]:
        """To print."""
        if not self.num_boxes:
            return ["no ground truth, no AP"]
        return [
            "  ".join(f"{name} {self.summary[name]:.3f}" for name in METRICS[:6]),
            "  ".join(f"{name} {self.summary[name]:.3f}" for name in METRICS[6:]),
        ]


def coco_results(
    image_id: int | str,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    class_names: ClassNames,
) -> list[dict[str, Any]]:
    """COCO result rows of one image: `bbox` is [x, y, width, height], ids are the data set's own.

    Args:
      boxes: [n, 4] yxyx, pixels of the original image.
    """
    return [
        {
            "image_id": image_id,
            "category_id": class_names.ids[int(label)],
            "bbox": [
                round(float(value), 3)
                for value in (box[1], box[0], box[3] - box[1], box[2] - box[0])
            ],
            "score": round(float(score), 6),
        }
        for box, score, label in zip(boxes, scores, classes)
    ]


def evaluate_coco(dataset: dict[str, Any], results: Sequence[dict[str, Any]]) -> CocoMetrics:
    """COCO box metrics of result rows against a COCO-JSON dict; see `run_coco`."""
    return coco_metrics(run_coco(dataset, results))


def run_coco(dataset: dict[str, Any], results: Sequence[dict[str, Any]]) -> COCOeval:
    """pycocotools' evaluation of result rows against a COCO-JSON dict, done; all its images count.

    Images are numbered in it, see `_with_numbers_for_ids`, and keep their order.

    Args:
      dataset: `images`, `annotations`, `categories`; image ids of any type.
      results: rows `{image_id, category_id, bbox, score}`.

    Raises:
      ValueError: results of images that aren't in the data set.
    """
    numbered, results = _with_numbers_for_ids(dataset, results)
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(_indexed(numbered), _indexed({**numbered, "annotations": results}), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def coco_metrics(run: COCOeval) -> CocoMetrics:
    """The numbers of `run_coco`."""
    dataset = run.cocoGt.dataset
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    precision = run.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]
    per_class = {
        names[category]: float(np.mean(precision[:, :, number]))
        for number, category in enumerate(run.params.catIds)
        if (precision[:, :, number] > -1).any()
    }
    summary = {name: float(value) for name, value in zip(METRICS, run.stats)}
    return CocoMetrics(summary, per_class, len(dataset["images"]), len(dataset["annotations"]))


def _with_numbers_for_ids(
    dataset: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same ground truth and results with the ranks of image ids in their place.

    pycocotools wants whole numbers for ids. It settles equal scores by the order of ids, which
    ranks keep. Results become annotations: numbered, with area and iscrowd.

    Raises:
      ValueError: results of images that aren't in the data set.
    """
    ids = sorted(
        (image["id"] for image in dataset["images"]), key=lambda id_: (str(type(id_)), id_)
    )
    rank = {id_: number for number, id_ in enumerate(ids)}
    strangers = {row["image_id"] for row in results} - set(rank)
    if strangers:
        shown = ", ".join(repr(image_id) for image_id in list(strangers)[:5])
        raise ValueError(f"results of {len(strangers)} images that aren't in the data set: {shown}")
    truth = {
        "images": [{**image, "id": rank[image["id"]]} for image in dataset["images"]],
        "annotations": [
            {**row, "image_id": rank[row["image_id"]]} for row in dataset["annotations"]
        ],
        "categories": dataset["categories"],
    }
    found = [
        {
            "id": number,
            "image_id": rank[row["image_id"]],
            "category_id": row["category_id"],
            "bbox": row["bbox"],
            "score": row["score"],
            "area": row["bbox"][2] * row["bbox"][3],
            "iscrowd": 0,
        }
        for number, row in enumerate(results, start=1)
    ]
    return truth, found


def _indexed(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def write_results(path: str, results: Sequence[Mapping[str, Any]]):
    """Writes result rows as JSON, the folder made if need be."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file)
    print(f"wrote {path}")
