"""Where numbers and pictures of a run go: `metrics.jsonl`, TensorBoard, and W&B if it is named."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from effdet_jax.evaluation.analysis import Analysis
from effdet_jax.files import text_in_place
from effdet_jax.run.wandb_log import WandbLog
from effdet_jax.run.workdir import Workdir


class MetricWriter:
    """Writes scalars and images of a run below its workdir.

    Args:
      workdir: of the run. Only its first process writes.
      start_step: rows of later steps, left by a run that was killed after its last checkpoint, are
        removed: the steps will be done again.
      wandb: project of Weights & Biases to send the same to; '' sends nothing.
      config: of the run, for W&B.

    Raises:
      WandbError: it is named and isn't installed.
    """

    def __init__(
        self,
        workdir: Workdir,
        start_step: int = 0,
        *,
        wandb: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        self._silent = jax.process_index() != 0
        if self._silent:
            return
        self._wandb = WandbLog(wandb, workdir.path, config or {}) if wandb else None
        _drop_rows_after(workdir.metrics, start_step)
        self._file = open(workdir.metrics, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self._board = SummaryWriter(
            workdir.tensorboard, purge_step=start_step + 1 if start_step else None
        )

    def scalars(self, step: int, metrics: Mapping[str, float]):
        """One row of flat slash names, such as {'loss/total': 0.7}."""
        if self._silent:
            return
        values = {name: float(value) for name, value in metrics.items()}
        # JSON has no NaN: it is written as null.
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.scalars(step, values)

    def image(self, step: int, name: str, image: np.ndarray):
        """One [H, W, 3] uint8 picture."""
        if self._silent:
            return
        self._board.add_image(name, image, step, dataformats="HWC")
        self._board.flush()
        if self._wandb:
            self._wandb.image(step, name, image)

    def curves(self, step: int, analysis: Analysis):
        """Precision by recall of each class with boxes, to TensorBoard.

        TensorBoard wants a point per score threshold, the lowest first, and pycocotools gives one
        per recall: the counts are those of that recall, and the thresholds that TensorBoard writes
        beside them are only their order.
        """
        if self._silent:
            return
        for one in (one for one in analysis.classes if one.num_boxes):
            recall, precision = one.recall[::-1], one.precision[::-1]
            found = recall * one.num_boxes
            # No precision is no detection that comes so far.
            false = found * (1 / np.maximum(precision, 1e-9) - 1) * (precision > 0)
            missed = one.num_boxes - found
            self._board.add_pr_curve_raw(
                f"precision_by_recall/{one.name}",
                found,
                false,
                np.zeros_like(found),
                missed,
                precision,
                recall,
                step,
                num_thresholds=len(recall),
            )

    def close(self):
        if self._silent:
            return
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.close()


def _drop_rows_after(path: str, step: int):
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]  # A killed run may cut the last.
    earlier = [line for line in lines if json.loads(line)["step"] <= step]
    with text_in_place(path) as file:
        file.writelines(earlier)
