"""Which evaluation is the best so far, and whether better ones have stopped coming."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from effdet_jax.checkpoint import Checkpoints
from effdet_jax.config import ConfigError
from effdet_jax.run.workdir import read_metrics

# The criterion's name → the metric of an evaluation.
CRITERIA = {"AP": "eval/AP", "AP50": "eval/AP50", "AR": "eval/AR100"}
CRITERIA |= {"mIoU": "eval/mIoU", "top1": "eval/top1", "top5": "eval/top5"}


class Best:
    """The best evaluation of a run by one criterion.

    Args:
      criterion: one of `CRITERIA`.
      patience: evaluations without a better one that are too many; 0 for any number.
      metrics: of the best checkpoint so far, empty if there is none.
      step: its step.
      since: evaluations after it.
    """

    def __init__(
        self,
        criterion: str = "AP",
        patience: int = 0,
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        since: int = 0,
    ):
        self._key, self.criterion, self.patience = CRITERIA[criterion], criterion, patience
        self.metrics, self.step, self._since = dict(metrics or {}), step, since

    def value(self, name: str) -> float:
        """A metric of the best evaluation by its name, 'AP'; -1 before the first."""
        return self.metrics.get(f"eval/{name}", -1.0)

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the evaluation after `step` is the best so far."""
        if metrics[self._key] > self.metrics.get(self._key, -1.0):
            self.metrics, self.step, self._since = dict(metrics), step, 0
            return True
        self._since += step > self.step  # A resumed run may come by its best once more.
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self._since

    @property
    def ending(self) -> str:
        """Why a run ends before its last step, and how it goes on."""
        if self.exhausted:
            return f": {self}; --config.eval.patience=0 goes on"
        return "; the same command goes on from there"

    def __str__(self) -> str:
        value = self.metrics.get(self._key, -1.0)
        return (
            f"no better {self.criterion} in {self._since} evaluations (best {value:.3f} after step "
            f"{self.step})"
        )


def choose_criterion(asked: str, known: Sequence[str], objective: str) -> str:
    """What the best checkpoint is best by; the first of the `known` unless another is asked for.

    Raises:
      ConfigError: the objective, by its name, doesn't measure it.
    """
    if asked and asked not in known:
        raise ConfigError(
            f"--config.eval.criterion={asked!r} isn't one of {', '.join(map(repr, known))}, which "
            f"are measured with the objective '{objective}'"
        )
    return asked or known[0]


def earlier_best(
    checkpoints: Checkpoints, metrics_path: str, last_step: int, criterion: str, patience: int
) -> Best:
    """The best evaluation of a run so far, from its best checkpoint.

    Args:
      checkpoints: of the best.
      metrics_path: the run's `metrics.jsonl`.
      last_step: steps done.
      criterion, patience: see `Best`.
    """
    if checkpoints.latest_step is None:
        since = evaluations_after(metrics_path, 0, last_step, criterion)
        return Best(criterion, patience, since=since)
    saved = checkpoints.metadata()
    since = evaluations_after(metrics_path, saved.step, last_step, criterion)
    return Best(criterion, patience, metrics=saved.metrics, step=saved.step, since=since)


def evaluations_after(path: str, best_step: int, last_step: int, criterion: str = "AP") -> int:
    """Evaluations in a `metrics.jsonl` after `best_step` and up to `last_step`.

    Of several processes the first one reads, and the others hear of it.
    """
    count, key = 0, CRITERIA[criterion]
    if jax.process_index() == 0:
        rows = read_metrics(path)
        count = sum(key in row and best_step < row["step"] <= last_step for row in rows)
    if jax.process_count() == 1:
        return count
    return int(multihost_utils.broadcast_one_to_all(np.int32(count)))
