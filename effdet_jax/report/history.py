"""What a run has written of itself: the rows of `metrics.jsonl`."""

from typing import Any

from effdet_jax.report.charts import Line
from effdet_jax.run.workdir import read_metrics

LOSS, SPEED, WAIT = "loss/total", "perf/images_per_second", "data/wait_fraction"
VAL_LOSS, AP, AP50, AR = "eval/loss/total", "eval/AP", "eval/AP50", "eval/AR100"


class History:
    """Numbers of a run by step; empty where there is no such file.

    Args:
      path: of the `metrics.jsonl`; a row that a kill cut off is left out.
    """

    def __init__(self, path: str):
        self.rows = read_metrics(path)

    def line(self, name: str) -> Line:
        """(steps, values) of a metric, without those that were no finite numbers."""
        rows = [row for row in self.rows if row.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def last(self, name: str) -> float | None:
        """The newest value; None if there is none."""
        _, values = self.line(name)
        return values[-1] if values else None

    @property
    def step(self) -> int:
        """Of the newest row; 0 without one."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of evaluations, in order."""
        return [row for row in self.rows if AP in row]

    def best(self) -> dict[str, Any] | None:
        """The evaluation with the highest AP; None without one."""
        return max(self.evaluations, key=lambda row: row[AP] or 0.0, default=None)

    def hours(self, batch_size: int) -> float | None:
        """Hours of training up to the newest row, by its speed; None if that isn't known.

        Evaluations and saving aren't in it.
        """
        steps, speeds = self.line(SPEED)
        if not batch_size or not steps or min(speeds) <= 0:
            return None
        before = [0, *steps[:-1]]
        images = [(step - start) * batch_size for start, step in zip(before, steps)]
        return sum(count / speed for count, speed in zip(images, speeds)) / 3600
