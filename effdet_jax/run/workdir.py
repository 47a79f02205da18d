"""The folder of a run: what lies where, and the lock that keeps a second training out.

WORKDIR/
  config.json            the configuration, as it is written into every checkpoint
  data_report.json       every fault of the data, whole
  metrics.jsonl          a row of numbers per interval and evaluation
  report.html            what the newest evaluation says, to look at
  tensorboard/           the same numbers, and the pictures
  train_batch.jpg        the first augmented images
  val_detections.jpg     the first validation images with the last evaluation's detections
  wandb_id, wandb/       with --config.log.wandb alone: W&B's
  checkpoints/last/      what training resumes from
  checkpoints/best/      what `ed.load` takes
  .lock                  held while a training writes here
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image

from effdet_jax.checkpoint import BEST, LAST
from effdet_jax.errors import UserError
from effdet_jax.files import text_in_place

try:
    import fcntl
except ImportError:  # Windows has no such locks, and nobody is kept out.
    fcntl = None

CONFIG, METRICS = "config.json", "metrics.jsonl"


class WorkdirError(UserError):
    """The folder can't be written, or another training writes there; the message says which."""


def earlier_config(workdir: str | os.PathLike) -> dict[str, Any]:
    """The configuration that a training wrote there; empty if there was none."""
    path = os.path.join(workdir, CONFIG)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; none without it. A row that a kill cut off is left out."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class Workdir:
    """Paths below a run's folder. Of several processes only the first one writes files here.

    Args:
      path: the folder; it is made if it isn't there.

    Raises:
      WorkdirError: it can't be written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self.config = os.path.join(self.path, CONFIG)
        self.data_report = os.path.join(self.path, "data_report.json")
        self.metrics = os.path.join(self.path, METRICS)
        self.report = os.path.join(self.path, "report.html")
        self.tensorboard = os.path.join(self.path, "tensorboard")
        self.last = os.path.join(self.path, LAST)
        self.best = os.path.join(self.path, BEST)
        try:
            os.makedirs(self.path, exist_ok=True)
            probe = os.path.join(self.path, f".writable-{jax.process_index()}")
            with open(probe, "w", encoding="utf-8"):
                pass
            os.remove(probe)
        except OSError as error:
            raise WorkdirError(
                f"can't write into --workdir={self.path}: {error.strerror}; choose another folder"
            ) from error

    def __str__(self) -> str:
        return self.path

    def write_config(self, config: Mapping[str, Any]):
        """Writes the configuration, plain JSON types."""
        if jax.process_index() == 0:
            with text_in_place(self.config) as file:
                json.dump(config, file, indent=2)

    def write_data_report(self, reports: Mapping[str, Any]):
        """Writes what was found in the data of each split, plain JSON types."""
        if jax.process_index() == 0:
            with text_in_place(self.data_report) as file:
                json.dump(reports, file, indent=1, ensure_ascii=False)

    def write_picture(self, name: str, picture: np.ndarray):
        """Writes `NAME.jpg` from [H, W, 3] uint8; one that exists is replaced."""
        if jax.process_index() == 0:
            path = os.path.join(self.path, f"{name}.jpg")
            Image.fromarray(picture).save(path, quality=92)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainings out while within: they would clear away what this one is saving.

        The system releases the lock however the process ends. Of several processes the first one
        holds it. A file system without locks keeps nobody out.

        Raises:
          WorkdirError: another process holds it.
        """
        if fcntl is None or jax.process_index():
            yield
            return
        with open(os.path.join(self.path, ".lock"), "a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:  # Both mean that another has it.
                file.seek(0)
                raise WorkdirError(
                    f"another training is using --workdir={self.path} ({file.read().strip()}); "
                    "wait until it has ended, or choose another folder"
                ) from error
            except OSError:
                pass
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
            yield
