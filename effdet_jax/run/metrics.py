"""Where numbers and pictures of a run go: `metrics.jsonl` and TensorBoard."""

import json
import math
import os
from collections.abc import Mapping

import jax
import numpy as np
from tensorboardX import SummaryWriter

from effdet_jax.files import put_in_place
from effdet_jax.run.workdir import Workdir


class MetricWriter:
    """Writes scalars and images of a run below its workdir.

    Args:
      workdir: of the run. Only its first process writes.
      start_step: rows of later steps, left by a run that was killed after its last checkpoint, are
        removed: the steps will be done again.
    """

    def __init__(self, workdir: Workdir, start_step: int = 0):
        self._silent = jax.process_index() != 0
        if self._silent:
            return
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

    def image(self, step: int, name: str, image: np.ndarray):
        """One [H, W, 3] uint8 picture."""
        if self._silent:
            return
        self._board.add_image(name, image, step, dataformats="HWC")
        self._board.flush()

    def close(self):
        if self._silent:
            return
        self._file.close()
        self._board.close()


def _drop_rows_after(path: str, step: int):
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]  # A killed run may cut the last.
    earlier = [line for line in lines if json.loads(line)["step"] <= step]
    with put_in_place(path, overwrite=True) as new, open(new, "w", encoding="utf-8") as file:
        file.writelines(earlier)
