"""An analysis and the numbers of a run, made by hand, for tests of pages."""

import json

import numpy as np

from effdet_jax.evaluation.analysis import Analysis, ClassAnalysis, ImageAnalysis, SizeAnalysis
from effdet_jax.evaluation.boxes import BoxEvaluation
from effdet_jax.evaluation.coco import CocoMetrics

THRESHOLDS = np.array([0.25, 0.5, 0.75])


def make_analysis(names=("cat",), num_images=4):
    """Each class has 10 boxes in 5 images and falls from precision 1 to 0.5 at recall 0.6; the first
    image is all right and the last one all wrong."""
    recall = np.linspace(0, 1, 101)
    classes = tuple(
        ClassAnalysis(
            name,
            num_images=5,
            num_boxes=10,
            ap=0.4 + number / 100,
            ap50=0.8,
            ar=0.5,
            best_f1=0.7,
            threshold=0.5,
            recall=recall,
            precision=np.where(recall < 0.6, 1.0, 0.5),
            f1=np.array([0.6, 0.7, 0.2]),
        )
        for number, name in enumerate(names)
    )
    confusion = np.eye(len(names) + 1, dtype=int) * 8
    confusion[-1, -1] = 0
    confusion[0, -1], confusion[-1, 0] = 2, 3  # Two weren't found, three are of nothing.
    right, last = ImageAnalysis(0, 1, 1, 0, 1.0), num_images - 1
    rest = tuple(ImageAnalysis(index, 1, 1, 1, 0.6) for index in range(1, last))
    return Analysis(
        THRESHOLDS,
        f1=np.array([0.6, 0.7, 0.2]),
        threshold=0.5,
        best_f1=0.7,
        classes=classes,
        sizes=(
            SizeAnalysis("small (below 32 px)", 10 * len(names), 0.4, 0.5),
            SizeAnalysis("large (above 96 px)", 0, -1.0, -1.0),
        ),
        confusion=confusion,
        images=(right, *rest, ImageAnalysis(last, 1, 0, 2, 0.0)),
    )


def make_evaluation(results, names=("cat",)):
    """An evaluation of `make_analysis` on four images: AP and AP at IoU 0.5 are 0.5."""
    summary = {"AP": 0.5, "AP50": 0.5, "AR100": 0.6}
    metrics = CocoMetrics(summary, {}, num_images=4, num_boxes=4)
    loss = {"loss/total": 1.0}
    analysis = make_analysis(names)
    return BoxEvaluation(metrics=metrics, results=results, analysis=analysis, loss=loss)


def write_metrics(path, best=0.5):
    """Ten intervals of 10 steps, and evaluations after 50 and 100: AP 0.1 and `best`."""
    rows = []
    for step in range(10, 101, 10):
        rows.append(
            {
                "step": step,
                "epoch": step / 20,
                "loss/total": 100 / step,
                "perf/images_per_second": 40.0,
                "data/wait_fraction": 0.05,
            }
        )
        if step % 50 == 0:
            ap = 0.1 if step == 50 else best
            rows.append(
                {
                    "step": step,
                    "eval/AP": ap,
                    "eval/AP50": ap,
                    "eval/AR100": ap,
                    "eval/loss/total": 1.0,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def result(image_id, box, score=0.9, category=7):
    """A COCO result row of a yxyx box."""
    top, left, bottom, right = box
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "score": score,
    }
