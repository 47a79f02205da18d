"""The sections of a run's page, each from numbers to HTML."""

from collections.abc import Mapping, Sequence

import numpy as np

from effdet_jax.classes import is_unused
from effdet_jax.evaluation.analysis import Analysis
from effdet_jax.report.charts import heat_map, line_chart
from effdet_jax.report.examples import COLOURS, KINDS, Pair
from effdet_jax.report.history import AP, AP50, AR, LOSS, SPEED, VAL_LOSS, WAIT, History
from effdet_jax.report.page import (
    Cell,
    amount,
    card,
    chart,
    escape,
    folded,
    number,
    picture,
    quality,
    row,
    table,
)
from effdet_jax.run.recipes import Difference

_MOST_LINES = 100  # Classes in a chart of curves: those with most boxes.
_MOST_CELLS = 100  # Rows of the confusion matrix.
_MOST_CONFUSIONS = 15
_ALL = "all classes"


def tiles(values: Mapping[str, str]) -> str:
    """Large numbers with their names."""
    shown = "".join(
        f'<div class="tile"><b>{escape(text)}</b><span>{escape(name)}</span></div>'
        for name, text in values.items()
    )
    return f'<div class="tiles">{shown}</div>' if shown else ""


def training(history: History) -> str:
    """Loss and AP by step, and the evaluations as a table."""
    losses = {"training": history.line(LOSS), "validation": history.line(VAL_LOSS)}
    loss = line_chart(
        {name: line for name, line in losses.items() if line[0]},
        "step",
        "loss",
        log=True,
    )
    names = {"AP": AP, "AP at IoU 0.5": AP50, "AR": AR}
    ap = line_chart(
        {name: history.line(key) for name, key in names.items()}, "step", "", share=True
    )
    rows = [
        [
            amount(one["step"]),
            *(quality(one[key] or 0.0) for key in names.values()),
            Cell(number(one.get(VAL_LOSS), 4), one.get(VAL_LOSS) or 0.0),
        ]
        for one in reversed(history.evaluations)
    ]
    evaluations = table(["step", *names, "validation loss"], rows)
    return row(
        chart(
            "Loss",
            "Where validation rises while training falls, the run learns its images by heart.",
            loss,
        ),
        chart("Average precision", "On the validation images, after each evaluation.", ap),
    ) + (folded(f"All {len(rows)} evaluations", evaluations) if evaluations else "")


def classes(analysis: Analysis) -> str:
    """The table of classes."""
    rows = [
        [
            Cell(one.name),
            amount(one.num_images),
            amount(one.num_boxes),
            *(quality(value) for value in (one.ap, one.ap50, one.ar)),
            quality(one.best_f1 if one.num_boxes else -1.0),
            Cell(number(one.threshold, 2), one.threshold) if one.num_boxes else Cell("–", -1.0),
        ]
        for one in analysis.classes
        if one.num_boxes or not is_unused(one.name)
    ]
    headings = ["class", "images", "boxes", "AP", "AP50", "AR", "best F1", "at score"]
    note = (
        "AP is the mean over IoU 0.5 to 0.95, AP50 at 0.5 alone; AR is the recall of 100 detections "
        "per image. 'At score' is the threshold with the best F1. Click a heading to sort."
    )
    return card("Every class", table(headings, rows, sortable=True), note)


def curves(analysis: Analysis) -> str:
    """Precision by recall, and F1 by score."""
    real = [one for one in analysis.classes if one.num_boxes]
    shown = sorted(real, key=lambda one: -one.num_boxes)[:_MOST_LINES]
    several = len(real) > 1
    precision = {one.name: (one.recall, one.precision) for one in shown}
    if several:
        mean = np.mean([one.precision for one in real], axis=0)
        precision = {_ALL: (real[0].recall, mean), **precision}
    f1 = {one.name: (analysis.thresholds, one.f1) for one in shown}
    f1 = {_ALL: (analysis.thresholds, analysis.f1), **f1} if several else f1
    rest = len(real) - len(shown)
    left_out = f" {rest} classes with fewer boxes are left out." if rest else ""
    options = {"share": True, "one_x": True, "highlight": _ALL, "height": 300}
    return row(
        chart(
            "Precision by recall",
            "At IoU 0.5. The area below a line is its AP50. 'All classes' is the mean." + left_out,
            line_chart(precision, "recall", "precision", **options),
        ),
        chart(
            "F1 by score",
            f"At IoU 0.5. The best for all boxes together is {number(analysis.best_f1)}, at score "
            f"{analysis.threshold:.2f}: a threshold to detect with.",
            line_chart(f1, "score threshold", "F1", **options),
        ),
    )


def confusion(analysis: Analysis) -> str:
    """The confusion matrix, and its largest faults as a table."""
    counts = np.asarray(analysis.confusion)
    names = [*(one.name for one in analysis.classes), "background"]
    named = [i for i in np.argsort(-counts.sum(1)[:-1], kind="stable") if not is_unused(names[i])]
    kept = [*sorted(int(i) for i in named[:_MOST_CELLS]), len(names) - 1]
    rest = len(named) - _MOST_CELLS
    left_out = f" The {rest} classes with fewest boxes are left out." if rest > 0 else ""
    matrix = heat_map(counts[np.ix_(kept, kept)], [names[i] for i in kept])
    faults = [
        (int(counts[i, j]), i, j)
        for i, j in np.argwhere(counts)
        if i != j  # Background as background isn't counted.
    ]
    faults.sort(key=lambda fault: -fault[0])
    rows = [
        [
            Cell(names[i] if i < len(names) - 1 else "nothing there"),
            Cell(names[j] if j < len(names) - 1 else "not found"),
            amount(count),
        ]
        for count, i, j in faults[:_MOST_CONFUSIONS]
    ]
    at = f"At score {analysis.threshold:.2f} and IoU 0.5."
    return row(
        chart(
            "Confusion matrix",
            f"{at} Shaded by the share of a row. 'Background' is what wasn't found, to the right, "
            f"and what was found where nothing is, below.{left_out}",
            matrix,
        ),
        card("Most frequent faults", table(["truth", "detected as", "boxes"], rows), at),
    )


def sizes(analysis: Analysis) -> str:
    """AP and AR by the size of objects."""
    rows = [
        [Cell(one.name), amount(one.num_boxes), quality(one.ap), quality(one.ar)]
        for one in analysis.sizes
    ]
    note = "By area in pixels of the original image, COCO's ranges."
    return card("Objects by size", table(["size", "boxes", "AP", "AR"], rows), note)


def images(pairs: Sequence[Pair], threshold: float) -> str:
    """Ground truth to the left, detections to the right."""
    if not pairs:
        return ""
    meanings = {
        "found": "found, and rightly detected",
        "missed": "ground truth that was missed",
        "wrong": "false detection",
    }
    key = "".join(
        f'<li style="--colour:{COLOURS[state]}">{meaning}</li>'
        for state, meaning in meanings.items()
    )
    notes = {
        "best": "Highest F1, most boxes first.",
        "worst": "Lowest F1, most faults first. Look here for wrong labels, too.",
        "random": "The same ones at every evaluation.",
    }
    blocks = [
        card(
            kind.capitalize(),
            f'<div class="pictures">{"".join(map(_pair, shown))}</div>',
            notes[kind],
        )
        for kind in KINDS
        if (shown := [pair for pair in pairs if pair.kind == kind])
    ]
    return (
        '<p class="quiet">Beside each other, or below on a narrow screen: the ground truth, and the '
        f'detections from score {threshold:.2f} on.</p><ul class="key">{key}</ul>{"".join(blocks)}'
    )


def _pair(pair: Pair) -> str:
    left = picture(pair.truth, f"{pair.name}: ground truth")
    right = picture(pair.detections, f"{pair.name}: detections")
    return (
        f'<figure><div class="pair">{left}{right}</div><figcaption><b>{pair.found} found, '
        f"{pair.missed} missed, {pair.wrong} false</b> · {escape(pair.name)}</figcaption></figure>"
    )


def speed(history: History) -> str:
    """Images per second and the wait for data, by step."""
    steps, waits = history.line(WAIT)
    return row(
        chart(
            "Images per second",
            "Of training alone: evaluations and saving are left out.",
            line_chart({"images/s": history.line(SPEED)}, "step", "images/s", height=200),
        ),
        chart(
            "Waiting for data",
            "Share of the time that the device waits. Above 0.1, more of "
            "config.data.workers may make the run faster.",
            line_chart({"waiting": (steps, waits)}, "step", "", share=True, height=200),
        ),
    )


def settings(recipe: str, differences: Sequence[Difference]) -> str:
    """What differs from the recipe."""
    rows = [
        [
            one.knob,
            str(one.value),
            "left open" if one.recipe is None else str(one.recipe),
            one.reason,
        ]
        for one in differences
    ]
    body = table(["setting", "here", recipe, "why"], rows) or "<p>Nothing differs.</p>"
    return card(f"Beside {recipe}", body, "Settings that aren't as the nearest recipe has them.")
