"""Follows a run step by step: interval means, waiting time, steps that were no finite numbers."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from effdet_jax.detection.objective import format_loss
from effdet_jax.errors import UserError

DIVERGED, PATIENCE = 3.0, 3  # Times the smallest loss, for so many intervals: that is no noise.


class TrainingError(UserError):
    """Training can't go on; the message says at which step and what to try."""


class Monitor:
    """Collects metrics without holding up the device: a step is looked at once the next has begun.

    Args:
      batch_size: images per step.
      steps_per_epoch: may be a fraction.
      total_steps: of the run.
      max_bad_steps: non-finite steps in a row that end it.
      learning_rate: the knob, to advise a smaller one.

    Attributes:
      last_good_step: the newest step that gave finite numbers; what it made of the parameters is
        known to be good once a later one is, too.
      in_trouble: whether the newest step gave no finite numbers.
      loss, smallest_loss: mean of the newest interval, and of the best so far; NaN before.
      describe: names an image by its index.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        steps_per_epoch: float,
        total_steps: int,
        max_bad_steps: int,
        learning_rate: float,
        describe: Callable[[int], str],
    ):
        self._batch_size, self._steps_per_epoch = batch_size, steps_per_epoch
        self._total_steps, self._max_bad_steps = total_steps, max_bad_steps
        self._learning_rate, self._describe = learning_rate, describe
        self.loss = self.smallest_loss = math.nan
        self.last_good_step = self._intervals_above = 0
        self._warned = False
        self._bad_in_a_row = self._bad_total = 0
        self._named: set[int] = set()
        self._pending: tuple[int, Mapping[str, Any], np.ndarray] | None = None
        self._begin_interval()

    def _begin_interval(self):
        self._rows: list[Mapping[str, Any]] = []
        self._waited = self._elsewhere = 0.0
        self._began = time.time()

    def next_batch(self, batches: Iterator[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The next batch; the wait for it counts as waiting for data."""
        began = time.time()
        batch = next(batches)
        self._waited += time.time() - began
        return batch

    def add(self, step: int, batch: Mapping[str, np.ndarray], metrics: Mapping[str, Any]):
        """Step number `step` has begun on `batch`; the one before it is done now, and is checked.

        Raises:
          TrainingError: too many steps in a row were no finite numbers.
        """
        self.settle()
        if not self.last_good_step:
            self.last_good_step = step - 1
        self._pending = (step, metrics, batch["index"])
        self._rows.append(metrics)
        self._name_images(batch)

    def settle(self):
        """Waits for the newest step and checks it.

        Raises:
          TrainingError: too many steps in a row were no finite numbers.
        """
        if self._pending is None:
            return
        step, metrics, indices = self._pending
        self._pending = None
        if metrics["finite"]:
            self._bad_in_a_row, self.last_good_step = 0, step
            return
        self._bad_in_a_row += 1
        self._bad_total += 1
        images = [self._describe(int(index)) for index in indices[:8]]
        warn(
            f"step {step} skipped: loss {float(metrics['loss/total'])}, gradient norm "
            f"{float(metrics['optim/grad_norm'])}. Its images: {', '.join(images)}"
            + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")
        )
        if self._bad_in_a_row >= self._max_bad_steps:
            raise TrainingError(
                f"{self._bad_in_a_row} steps in a row, up to step {step}, gave no finite numbers. "
                "Look at the images named above, and try a quarter of the learning rate: the same "
                f"command with --config.optim.learning_rate={self._learning_rate / 4:.2g}"
            )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent within, on evaluation and saving, out of the speed."""
        began = time.time()
        yield
        self._elsewhere += time.time() - began

    def finish_interval(self, step: int) -> dict[str, float]:
        """Prints the line of the interval that ends with `step` and returns its means."""
        self.settle()
        rows = jax.device_get(self._rows)
        seconds = max(time.time() - self._began - self._elsewhere, 1e-9)
        metrics = {
            "epoch": step / self._steps_per_epoch,
            **mean_metrics(rows),
            "data/wait_fraction": self._waited / seconds,
            "optim/bad_steps": self._bad_total,
            "perf/images_per_second": len(rows) * self._batch_size / seconds,
        }
        self._watch_loss(metrics["loss/total"])
        remaining = (self._total_steps - step) * seconds / len(rows)
        print(format_line(step, self._total_steps, metrics, remaining), flush=True)
        self._begin_interval()
        return metrics

    @property
    def in_trouble(self) -> bool:
        return self._bad_in_a_row > 0

    def _watch_loss(self, loss: float):
        """Says once that the loss has stayed far above what it was."""
        self.loss = loss
        self.smallest_loss = float(np.fmin(self.smallest_loss, loss))  # Whichever is a number.
        above = loss > DIVERGED * self.smallest_loss
        self._intervals_above = self._intervals_above + 1 if above else 0
        if self._intervals_above == PATIENCE and not self._warned:
            self._warned = True
            warn(
                f"warning: training diverges: for {PATIENCE} intervals the loss has been more than "
                f"{DIVERGED:g} times {self.smallest_loss:.3g}, its best. Stop it, and try a quarter "
                f"of the learning rate (--config.optim.learning_rate={self._learning_rate / 4:.2g}) "
                "in a new --workdir"
            )

    def _name_images(self, batch: Mapping[str, np.ndarray]):
        """Says once of an image that it can't be read, or how many of its boxes are left out."""
        for row in np.flatnonzero(~batch["valid"] | (batch["dropped"] > 0)):
            index = int(batch["index"][row])
            if index in self._named:
                continue
            self._named.add(index)
            if batch["valid"][row]:
                what = (
                    f"{batch['dropped'][row]} boxes left out: bad ones, or more than the "
                    f"{batch['boxes'].shape[1]} of --config.data.max_boxes"
                )
            else:
                what = "can't be read, isn't trained on"
            warn(f"warning: {self._describe(index)}: {what}")


def warn(message: str):
    """To stderr, where every process of a run speaks: each sees images of its own."""
    print(message, file=sys.stderr, flush=True)


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the finite steps of an interval; NaN where there is none."""
    finite = [row for row in rows if row["finite"]]
    return {
        name: float(np.mean([row[name] for row in finite])) if finite else math.nan
        for name in rows[0]
        if name != "finite"
    }


def format_duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 07 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_line(step: int, total: int, metrics: Mapping[str, float], remaining: float) -> str:
    """The line printed per interval: the total loss and whatever parts it has.

    Args:
      metrics: of the interval; names that begin with 'loss/' are the parts.
      remaining: seconds to the end of the run.
    """
    return (
        f"step {step}/{total}  epoch {metrics['epoch']:.1f}  loss {format_loss(metrics)}  "
        f"lr {metrics['optim/learning_rate']:.4g}  grad {metrics['optim/grad_norm']:.2f}  "
        f"{metrics['perf/images_per_second']:.1f} images/s  "
        f"data-wait {100 * metrics['data/wait_fraction']:.0f} %  ETA {format_duration(remaining)}"
    )
