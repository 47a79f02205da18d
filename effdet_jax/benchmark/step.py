"""A train step to be timed: compiled for one batch, with the state that it goes on from."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from effdet_jax.compilation import release_memory
from effdet_jax.data.pipeline import Batch
from effdet_jax.distributed.mesh import place_batch
from effdet_jax.training.state import create_state
from effdet_jax.training.step import Step


class CompiledStep:
    """Each call trains one step, from the state where the last call ended.

    Attributes:
      compiled: the program, a `jax.stages.Compiled`.
      compile_seconds: it took to trace and compile.
    """

    def __init__(
        self,
        step: Step,
        optimizer: optax.GradientTransformation,
        variables: Any,
        batch: Batch,
        mesh: Mesh,
    ):
        """Compiles the step for batches of this one's shapes.

        Args:
          step: from `create_train_step`, on the mesh.
          optimizer: the step's.
          variables: `{'params', 'batch_stats'}` to begin with; they stay as they are.
          batch: of the pipeline.
          mesh: the devices.
        """
        # The step takes its state's memory: on the host, the caller's own can't be meant.
        self._state = create_state(jax.device_get(variables), optimizer, mesh)
        started = time.perf_counter()
        self.compiled = step.lower(self._state, place_batch(batch, mesh)).compile()
        self.compile_seconds = time.perf_counter() - started
        release_memory()  # As a training does.

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The metrics of a step on a batch that is placed on the mesh; waits for it."""
        self._state, metrics = self.compiled(self._state, batch)
        return jax.block_until_ready(metrics)
