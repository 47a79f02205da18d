"""What an evaluation says, whatever the objective: numbers, lines to print, files to write."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from effdet_jax.checkpoint import THRESHOLD
from effdet_jax.evaluation.analysis import Analysis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation says; each kind of measurement has a subclass with its numbers.

    Attributes:
      results: rows of plain JSON types, what was predicted of the images.
      unreadable: descriptions of images without predictions because they are broken.
      first: predictions of the first images, by index, to be drawn; broken ones are left out.
      loss: {'loss/total': …} and parts, see `loop.mean_loss`; empty if it wasn't asked for, or there
        is nothing to learn from.
      analysis: what lies behind the metrics of boxes; None where no boxes are measured.
      criterion: the metric that is printed first, and that 'eval/…' has.
      results_file: what the rows are called as a file.
      unit: what the rows are, to count them.
    """

    results: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    first: dict[int, Any] = dataclasses.field(default_factory=dict)
    loss: Mapping[str, float] = dataclasses.field(default_factory=dict)
    analysis: Analysis | None = None

    criterion: ClassVar[str]
    results_file: ClassVar[str]
    unit: ClassVar[str]

    @property
    def num_images(self) -> int:
        """Images that count."""
        raise NotImplementedError

    @property
    def summary(self) -> Mapping[str, float]:
        """The main metrics by name, `criterion` among them."""
        raise NotImplementedError

    @property
    def per_class(self) -> Mapping[str, float]:
        """`criterion` of each class by name."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """Metrics and the table of the classes, to print."""
        raise NotImplementedError

    def table(self) -> tuple[Sequence[str], list[Sequence[Any]]]:
        """(columns, rows) of what is known of each class."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain JSON types; null for what is no number."""
        return {
            "num_images": self.num_images,
            "unreadable": list(self.unreadable),
            "summary": finite(self.summary),
            "loss": finite({name.removeprefix("loss/"): x for name, x in self.loss.items()}),
        }

    @property
    def score_threshold(self) -> float | None:
        """The best one to show predictions by, None where none is known."""
        return None

    def is_low(self, best: float) -> bool:
        """Whether `diagnosis.diagnose` has something to say of so low a metric.

        Args:
          best: of earlier evaluations.
        """
        del best
        return False

    @property
    def value(self) -> float:
        """Of the criterion: the larger the better."""
        return self.summary[self.criterion]

    def scalars(self) -> dict[str, float]:
        """All numbers but those of classes, by metric name: {'eval/AP': …, 'eval/loss/total': …}."""
        numbers = {**self.summary, **self.loss}
        metrics = {f"eval/{name}": value for name, value in numbers.items()}
        if self.score_threshold is not None:
            metrics[THRESHOLD] = self.score_threshold
        return metrics

    @property
    def warnings(self) -> list[str]:
        """A line for each image that couldn't be read."""
        return [
            f"warning: {image} can't be read and counts as without {self.unit}"
            for image in self.unreadable
        ]


@runtime_checkable
class Scorer(Protocol):
    """Measures predictions on one source: an entry of `loop.SCORERS`, called with that source.

    Attributes:
      criteria: metrics that a run may choose its best checkpoint by; the first unless it is asked.
      max_boxes: most ground-truth boxes of an image, slots that the loss needs; 0 for no loss.
    """

    criteria: ClassVar[tuple[str, ...]]
    max_boxes: int

    def rows(self, index: int, found: Any) -> list[dict[str, Any]]:
        """Result rows of an image from what the objective decoded of it, numpy."""

    def evaluation(self, results: list[dict[str, Any]], **others: Any) -> Evaluation:
        """Of the rows of all images.

        Args:
          **others: `unreadable`, `first` and `loss` of `Evaluation`.
        """


def finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers, None for what is none, as JSON needs it."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
