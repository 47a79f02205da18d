"""Weights & Biases, for those who name a project: nothing is imported or sent otherwise."""

import importlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from effdet_jax.errors import UserError

_ID = "wandb_id"  # In the workdir: a run that goes on is the same run there.


class WandbError(UserError):
    """W&B was asked for and can't be had; the message says what to type."""


class WandbLog:
    """A run of a W&B project.

    Args:
      project: its name.
      workdir: of the run; `wandb` keeps its files there.
      config: of the run, plain JSON types.

    Raises:
      WandbError: `wandb` isn't installed.
    """

    def __init__(self, project: str, workdir: str, config: Mapping[str, Any]):
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise WandbError(
                f"--config.log.wandb={project} needs W&B: pip install 'effdet_jax[wandb]'"
            ) from error
        self._run = self._wandb.init(
            project=project,
            name=os.path.basename(os.path.abspath(workdir)),
            id=_run_id(workdir),
            resume="allow",
            dir=workdir,
            config=dict(config),
        )
        # W&B's own steps can't go back; those of a run that is done again from a checkpoint do.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]):
        """One row of flat slash names."""
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, image: np.ndarray):
        """One [H, W, 3] uint8 picture."""
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def close(self):
        """Sends what is left."""
        self._run.finish()


def _run_id(workdir: str) -> str:
    """The id that the run of this workdir has at W&B."""
    path = os.path.join(workdir, _ID)
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(uuid.uuid4().hex[:12])
    with open(path, encoding="utf-8") as file:
        return file.read()
