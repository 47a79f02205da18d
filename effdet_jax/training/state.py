"""All a training run carries from step to step, as one plain pytree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from effdet_jax.distributed.mesh import state_sharding
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import abstract_variables


@struct.dataclass
class TrainState:
    """State after `step` steps. Random numbers are folded from seed and step: none is stored.

    Attributes:
      step: number of steps done, skipped ones included.
      params: float32 parameters.
      batch_stats: running statistics of batch normalisation.
      opt_state: the optimizer's.
      ema: {'params', 'batch_stats'} moving averages, what evaluation and export use.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """The weights themselves, as `Detector.apply` takes them; `ema` are their averages."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(variables: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state that starts from these variables, placed where it is to live."""
    begin = functools.partial(state_of, optimizer=optimizer)
    shardings = state_sharding(jax.eval_shape(begin, variables), mesh)
    create = jax.jit(begin, out_shardings=shardings)
    return create(variables)


def abstract_state(
    model: Detector, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes of a state and where they live; nothing is computed."""
    state = jax.eval_shape(lambda tree: state_of(tree, optimizer), abstract_variables(model))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_sharding(state, mesh),
    )


def state_of(variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state that starts from given variables; the moving averages start from them too."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, dict(variables)),
    )
