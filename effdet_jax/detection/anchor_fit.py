"""Do the anchors fit the boxes? Shares of boxes that no anchor reaches, and what would reach them.

A box that no anchor overlaps with IoU 0.5 is learned by one anchor at most, the one it claims (see
`ops.matching.match`). Plain numpy on boxes in network pixels, as evaluation sees them: the scale
jitter of training widens sizes to both sides of these.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from effdet_jax.ops.anchors import feature_size
from effdet_jax.spec import ModelSpec

IOU = 0.5
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
# Other anchors are proposed where they help and mend most of it. COCO at 512 px has 30 % of its boxes
# unmatched and would have 19 % at half the scale: the published scale is right all the same.
LEAST_GAIN, MOST_LEFT = 0.03, 1 / 3
NEGLIGIBLE = 0.05
# From here on a class counts in the mean over classes; below, one box would decide.
LEAST_BOXES = 10
MOST_BOXES, MOST_CLUSTERED = 100_000, 10_000
# Sides, network pixels, at COCO's areas.
SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, np.inf)}
CLUSTERS = 9


@dataclasses.dataclass(frozen=True, eq=False)
class AnchorFit:
    """How a set's boxes and a spec's anchors go together.

    Attributes:
      spec: the model asked about.
      names: [K] classes.
      labels: [N] class indices.
      sides: [N] square roots of the boxes' areas, network pixels.
      best_iou: {anchor scale: [N] best IoU of any anchor}, the spec's own scale among them.
      clusters: [k, 2] (height, width) that k-means finds, network pixels, small to large.
      aspects: width / height that k-means finds, as many as the spec has, ascending.
      aspects_iou: [N] best IoU with these aspects at the chosen scale.
    """

    spec: ModelSpec
    names: Sequence[str]
    labels: np.ndarray
    sides: np.ndarray
    best_iou: dict[float, np.ndarray]
    clusters: np.ndarray
    aspects: tuple[float, ...]
    aspects_iou: np.ndarray

    @functools.cached_property
    def anchor_scale(self) -> float:
        """The scale to use: the spec's own unless another mends most of what it misses."""
        own = self.spec.anchor_scale
        missed = {scale: self._mean_over_classes(iou) for scale, iou in self.best_iou.items()}
        best = min(missed, key=lambda scale: (missed[scale], abs(scale - own)))
        return best if self._mends(self.best_iou[own], self.best_iou[best]) else own

    @property
    def keeps_defaults(self) -> bool:
        """Whether the spec's own scale is the one to use."""
        return self.anchor_scale == self.spec.anchor_scale

    @property
    def keeps_aspects(self) -> bool:
        """Whether the spec's own aspects are the ones to use."""
        return not self._mends(self.best_iou[self.anchor_scale], self.aspects_iou)

    def unmatched(self, scale: float | None = None) -> float:
        """Share of the boxes that no anchor reaches at a scale, the spec's own if not given."""
        return _share(self.best_iou[self.spec.anchor_scale if scale is None else scale])

    def unmatched_of_class(self, scale: float | None = None) -> dict[str, float]:
        """The same by class name, for classes with boxes."""
        iou = self.best_iou[self.spec.anchor_scale if scale is None else scale]
        shares = self._shares_of_classes(iou)
        return {self.names[label]: float(shares[label]) for label in np.unique(self.labels)}

    def unmatched_of_size(self, scale: float | None = None) -> dict[str, float]:
        """The same by COCO's sizes in network pixels, for those with boxes."""
        iou = self.best_iou[self.spec.anchor_scale if scale is None else scale]
        inside = {
            name: (self.sides >= low) & (self.sides < high) for name, (low, high) in SIZES.items()
        }
        return {name: _share(iou[chosen]) for name, chosen in inside.items() if chosen.any()}

    @property
    def summary(self) -> str:
        """'15 % of boxes (Platelets 100 %)' reach no anchor."""
        share, classes = self.unmatched(), self.unmatched_of_class()
        counted = [self.names[label] for label in self._classes_that_count]
        worst = max(counted, key=classes.get, default=None)
        stands_out = worst is not None and classes[worst] >= share + 0.1
        named = f" ({worst} {_percent(classes[worst])})" if stands_out else ""
        return f"{_percent(share)} of boxes{named}"

    @property
    def reason(self) -> str:
        """Why `anchor_scale` is what it is, with the numbers."""
        own, chosen = self.spec.anchor_scale, self.anchor_scale
        text = f"{self.summary} reach no anchor at scale {own:g}"
        if chosen != own:
            return f"{text}; {_percent(self.unmatched(chosen))} at {chosen:g}"
        best = min(self.best_iou, key=lambda scale: (self.unmatched(scale), abs(scale - own)))
        if self.unmatched() < NEGLIGIBLE:
            return f"{text}: the model's own anchors fit"
        still = f", and still {_percent(self.unmatched(best))} at {best:g}" if best != own else ""
        return f"{text}{still}: no scale mends that, the model's own stays"

    @property
    def too_small(self) -> dict[str, float]:
        """{class: median side, network pixels} where most boxes reach no anchor of any good scale.

        Larger images help these, not other anchors.
        """
        shares = self._shares_of_classes(self.best_iou[self.anchor_scale])
        sides = {
            self.names[label]: float(np.median(self.sides[self.labels == label]))
            for label in self._classes_that_count
            if shares[label] > 0.5
        }
        return {name: side for name, side in sides.items() if side < 2 ** (self.spec.min_level + 1)}

    def lines(self) -> list[str]:
        """For people: what anchors miss before and after, and what k-means finds."""
        own, chosen = self.spec.anchor_scale, self.anchor_scale
        lines = [self.reason]
        for before, after in (
            (self.unmatched_of_class(), self.unmatched_of_class(chosen)),
            (self.unmatched_of_size(), self.unmatched_of_size(chosen)),
        ):
            shares = [
                f"{name} {_percent(before[name])}"
                + ("" if chosen == own else f" (at {chosen:g}: {_percent(after[name])})")
                for name in sorted(before, key=before.get, reverse=True)
            ]
            lines.append("unmatched: " + _some(shares, 8))
        sizes = ", ".join(f"{height:.0f}×{width:.0f}" for height, width in self.clusters)
        lines.append(f"k-means sizes (height × width): {sizes} px of {_size(self.spec)}")
        lines.append(
            f"k-means aspects (width / height): {_numbers(self.aspects)} would leave "
            f"{_percent(_share(self.aspects_iou))} unmatched"
            + (": keep the defaults" if self.keeps_aspects else f": {self._aspects_flag}")
        )
        return lines + self._too_small_lines()

    def banner(self) -> list[str]:
        """What a run should say about it, nothing where the anchors fit."""
        lines = []
        if not self.keeps_defaults:
            lines.append(f"{self.reason}: --config.model.anchor_scale={self.anchor_scale:g}")
        elif self.unmatched() >= 2 * NEGLIGIBLE or self.too_small:
            lines.append(self.reason)
        if not self.keeps_aspects:
            lines.append(
                f"other shapes would leave {_percent(_share(self.aspects_iou))} of boxes without "
                f"an anchor: {self._aspects_flag}"
            )
        return lines + self._too_small_lines()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; shares are of boxes that reach no anchor."""
        chosen = self.anchor_scale
        before, after = self.unmatched_of_class(), self.unmatched_of_class(chosen)
        sizes_before, sizes_after = self.unmatched_of_size(), self.unmatched_of_size(chosen)
        return {
            "boxes": len(self.labels),
            "image_size": list(self.spec.image_size),
            "anchor_scale": self.spec.anchor_scale,
            "best_anchor_scale": chosen,
            "unmatched": {f"{scale:g}": self.unmatched(scale) for scale in self.best_iou},
            "classes": {name: {"now": before[name], "best": after[name]} for name in before},
            "sizes": {
                name: {"now": sizes_before[name], "best": sizes_after[name]}
                for name in sizes_before
            },
            "kmeans_sizes": self.clusters.round(1).tolist(),
            "kmeans_aspects": list(self.aspects),
            "kmeans_aspects_unmatched": _share(self.aspects_iou),
            "keep_defaults": self.keeps_defaults and self.keeps_aspects,
            "reason": self.reason,
        }

    def _too_small_lines(self) -> list[str]:
        if not self.too_small:
            return []
        small = _some([f"{name} {side:.0f} px" for name, side in self.too_small.items()], 4)
        advice = "too small for any anchors, larger images help: --config.model.image_size"
        return [f"median sides at {_size(self.spec)}: {small}: {advice}"]

    @property
    def _aspects_flag(self) -> str:
        return f'--config.model.aspects="({_numbers(self.aspects)})"'

    def _mends(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether better IoUs leave few of the boxes that were unmatched, and of the classes."""
        gain = self._mean_over_classes(before) - self._mean_over_classes(after)
        return gain >= LEAST_GAIN and all(
            measure(after) <= MOST_LEFT * measure(before)
            for measure in (_share, self._mean_over_classes)
        )

    def _mean_over_classes(self, iou: np.ndarray) -> float:
        """Unmatched share, the mean over classes, as AP is."""
        shares = self._shares_of_classes(iou)[self._classes_that_count]
        return float(np.mean(shares)) if len(shares) else _share(iou)

    def _shares_of_classes(self, iou: np.ndarray) -> np.ndarray:
        """[K] unmatched shares, 0 for a class without boxes."""
        return np.bincount(self.labels, iou < IOU) / np.maximum(np.bincount(self.labels), 1)

    @functools.cached_property
    def _classes_that_count(self) -> list[int]:
        """Class indices with boxes enough to judge by."""
        return np.flatnonzero(np.bincount(self.labels) >= LEAST_BOXES).tolist()


def fit_anchors(
    boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], spec: ModelSpec
) -> AnchorFit:
    """Measures a spec's anchors on a set's boxes, and looks for better ones.

    Args:
      boxes: [N, 4] yxyx, network pixels; of more than 100,000 evenly chosen ones are looked at.
      labels: [N] class indices.
      names: [K] of the classes.
      spec: the model with the anchors to compare with.

    Raises:
      ValueError: there are no boxes.
    """
    if not len(boxes):
        raise ValueError("anchors can't be fitted to no boxes")
    boxes, labels = _thin(boxes, MOST_BOXES), _thin(labels, MOST_BOXES)
    sizes = boxes[:, 2:] - boxes[:, :2]
    scales = sorted({*SCALES, float(spec.anchor_scale)})
    clustered = _thin(sizes, MOST_CLUSTERED)
    clusters = k_means(clustered, CLUSTERS)
    shapes = k_means(clustered / np.sqrt(clustered.prod(1, keepdims=True)), len(spec.aspects))
    aspects = tuple(sorted(round(float(width / height), 2) for height, width in shapes))
    fit = AnchorFit(
        spec,
        list(names),
        labels,
        np.sqrt(sizes.prod(1)),
        {scale: best_iou(boxes, dataclasses.replace(spec, anchor_scale=scale)) for scale in scales},
        clusters,
        aspects,
        np.zeros(0),
    )
    fitted = dataclasses.replace(
        spec, anchor_scale=fit.anchor_scale, aspects=aspect_factors(aspects)
    )
    return dataclasses.replace(fit, aspects_iou=best_iou(boxes, fitted))


def aspect_factors(aspects: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(width factor, height factor) of the same area, as a spec has them, of width / height.

    Raises:
      ValueError: one isn't above 0.
    """
    if not all(ratio > 0 for ratio in aspects):
        raise ValueError(
            f"aspects {_numbers(aspects)} must be above 0: width / height of an anchor"
        )
    return tuple((float(ratio) ** 0.5, float(ratio) ** -0.5) for ratio in aspects)


def best_iou(boxes: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """[N] the largest IoU of each of boxes [N, 4] yxyx, network pixels, with any anchor of a spec.

    Of all anchors of a shape the one with the nearest centre overlaps most, in both axes at once: one
    cell per level is enough.
    """
    low, high = np.moveaxis(boxes.astype(np.float32).reshape(-1, 2, 2), 0, -1)  # [2, N] each
    areas, best = np.prod(high - low, axis=0), np.zeros(len(boxes), np.float32)
    for level in spec.levels:
        cells = np.array(feature_size(spec.image_size, level))[:, None]
        stride = (np.array(spec.image_size)[:, None] / cells).astype(np.float32)
        cell = np.minimum(np.maximum((low + high) / 2 // stride, 0), np.float32(cells - 1))
        nearest = (cell + np.float32(0.5)) * stride
        below, above = low - nearest, high - nearest  # Around the anchor's centre.
        for octave in range(spec.octaves):
            for wide, tall in spec.aspects:
                factor = np.float32([[tall], [wide]]) * 2 ** (octave / spec.octaves)
                half = np.float32(spec.anchor_scale * stride * factor / 2)  # [2, 1]
                y, x = np.maximum(np.minimum(above, half) - np.maximum(below, -half), 0)
                shared = y * x
                np.maximum(best, shared / (areas + 4 * half.prod() - shared), out=best)
    return best


def k_means(sizes: np.ndarray, clusters: int, *, rounds: int = 50) -> np.ndarray:
    """[k, 2] centres of sizes [N, 2] with the distance 1 - IoU of boxes about one centre.

    Begins with evenly spaced sizes by area and moves every centre to the median of its members, as
    often as any member moves. Sorted by area; fewer where there are fewer different sizes.
    """
    sizes = np.asarray(sizes, np.float64)
    by_area = sizes[np.lexsort((sizes[:, 1], sizes.prod(1).round(6)))]
    centers = by_area[((np.arange(clusters) + 0.5) / clusters * len(sizes)).astype(int)]
    centers, member = np.unique(centers, axis=0), None
    for _ in range(rounds):
        shared = np.minimum(sizes[:, None], centers).prod(2)
        union = sizes.prod(1)[:, None] + centers.prod(1) - shared
        nearest = np.argmax(shared / union, axis=1)
        if member is not None and (nearest == member).all():
            break
        member = nearest
        centers = np.array(
            [
                np.median(sizes[member == index], axis=0) if (member == index).any() else center
                for index, center in enumerate(centers)
            ]
        )
    return centers[np.argsort(centers.prod(1), kind="stable")]


def _thin(rows: np.ndarray, most: int) -> np.ndarray:
    """All rows, or so many of them at even distances."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def _share(iou: np.ndarray) -> float:
    return float(np.mean(iou < IOU))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _some(words: Sequence[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _size(spec: ModelSpec) -> str:
    return f"{spec.image_size[0]}×{spec.image_size[1]}"
