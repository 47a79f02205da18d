"""What the training data decide of a run, and what the run says about it: slots, balance, anchors."""

import dataclasses
import functools

import numpy as np

from effdet_jax.config import ConfigError
from effdet_jax.data.example import Source
from effdet_jax.data.statistics import USUAL_SLOTS, Statistics, class_weights, create_statistics
from effdet_jax.detection.anchor_fit import AnchorFit, fit_anchors
from effdet_jax.detection.objective import needs
from effdet_jax.spec import ModelSpec

FEW_BOXES = 10  # Of a class; fewer are too few to learn from.
MOST_NAMES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class DataFit:
    """Ground-truth slots, repeats of images, weights of classes, and the fit of anchors.

    Attributes:
      source: the training data; None if they aren't to be asked: the reference's slots, no balance.
      asked_boxes: slots, 0 for as many as the data need.
      balance: threshold of repeat-factor sampling, 0 for none.
      asked_weights: see `data.statistics.class_weights`.
    """

    source: Source | None
    asked_boxes: int = 0
    balance: float = 0.0
    asked_weights: str = ""

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Of the training data."""
        return create_statistics(self.source)

    @property
    def max_boxes(self) -> int:
        """Ground-truth slots per image."""
        if self.asked_boxes or self.source is None:
            return self.asked_boxes or USUAL_SLOTS
        return self.statistics.slots

    @functools.cached_property
    def repeats(self) -> np.ndarray | None:
        """[n] how often an epoch has each image on average, None for once each.

        Raises:
          ConfigError: the source can't say which classes its images have.
        """
        if not self.balance or self.source is None:
            return None
        return self._complete(f"data.balance={self.balance:g}").repeat_factors(self.balance)

    @functools.cached_property
    def class_weights(self) -> tuple[float, ...] | None:
        """[K] factors of the classes' losses, None for none.

        Raises:
          ConfigError: they aren't written as they should be, or the source can't count its boxes.
        """
        if not self.asked_weights or self.source is None:
            return None
        auto, names = self.asked_weights == "auto", self.source.class_names
        counted = self._complete("loss.class_weights=auto").boxes_per_class if auto else None
        try:
            return tuple(class_weights(self.asked_weights, names, counted).tolist())
        except ValueError as error:
            raise ConfigError(f"config.loss.class_weights: {error}") from error

    def fit_anchors(self, spec: ModelSpec) -> AnchorFit | None:
        """How the boxes and a spec's anchors go together; None where either has none."""
        anchored = spec.anchors_per_cell and "boxes" in needs(spec.objective)
        if self.source is None or not anchored:
            return None
        if spec not in self._fits:
            boxes, labels = self.statistics.on_canvas(spec.image_size)
            names = self.source.class_names.names
            self._fits[spec] = fit_anchors(boxes, labels, names, spec) if len(boxes) else None
        return self._fits[spec]

    @functools.cached_property
    def _fits(self) -> dict[ModelSpec, AnchorFit | None]:
        """What was fitted: the anchors to choose are often those to train with."""
        return {}

    def lines(self, anchors: AnchorFit | None) -> list[str]:
        """For the banner, each with its title in the first eleven columns.

        Raises:
          ConfigError: see `repeats` and `class_weights`.
        """
        parts = {
            "boxes": self._box_lines(),
            "balance": self._balance_lines(),
            "weighting": self._weight_lines(),
            "anchors": anchors.banner() if anchors else [],
        }
        return [
            f"{title:10s} " + "\n           ".join(lines) for title, lines in parts.items() if lines
        ]

    def _box_lines(self) -> list[str]:
        statistics, slots = self.statistics, self.max_boxes
        if not statistics.complete:
            return [f"{slots} slots per image: their numbers are known only as they are read"]
        names, counts = statistics.class_names, statistics.boxes_per_class
        if not counts.any():
            return []
        most, per_image = np.argsort(-counts, kind="stable"), statistics.boxes_per_image
        shown = [f"{names.names[index]} {counts[index]}" for index in most if counts[index]]
        lines = [f"{_some(shown)}; at most {per_image.max()} in an image: {slots} slots"]
        beyond = np.maximum(per_image - slots, 0)
        if beyond.any():
            lines.append(
                f"{np.count_nonzero(beyond)} images have more boxes than the {slots} of "
                f"--config.data.max_boxes: {beyond.sum()} boxes at a time, chosen anew each epoch, "
                "are ignored in the loss; 0 makes room for all"
            )
        few = [
            f"{name} {count}" for name, count in zip(names.names, counts) if 0 < count < FEW_BOXES
        ]
        if few:
            lines.append(f"warning: fewer than {FEW_BOXES} boxes of {_some(few)}")
        return lines

    def _balance_lines(self) -> list[str]:
        if self.repeats is None:
            return []
        statistics, names = self.statistics, self.source.class_names.names
        # How often a box of a class is shown in a round, on average over its boxes.
        total = np.bincount(statistics.labels, self.repeats[statistics.image], len(names))
        factors = total / np.maximum(statistics.boxes_per_class, 1)
        text = [f"{names[index]} ×{factors[index]:.2g}" for index in np.argsort(-factors)]
        shown = f"{len(self.repeats)} images are shown {self.repeats.sum():.0f} times in a round"
        return [f"{shown}; boxes of {_some(text)}"]

    def _weight_lines(self) -> list[str]:
        if self.class_weights is None:
            return []
        names = self.source.class_names.names
        return [_some([f"{name} ×{weight:.3g}" for name, weight in zip(names, self.class_weights)])]

    def _complete(self, knob: str) -> Statistics:
        if not self.statistics.complete:
            raise ConfigError(
                f"--config.{knob} needs the classes of all boxes before training, and this data "
                "tells them only as images are read; weights can be written out: "
                "--config.loss.class_weights=cat:2,dog:0.5"
            )
        return self.statistics


def _some(words: list[str]) -> str:
    more = f" and {len(words) - MOST_NAMES} more" if len(words) > MOST_NAMES else ""
    return ", ".join(words[:MOST_NAMES]) + more
