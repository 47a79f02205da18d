import jax
import jax.numpy as jnp

from effdet_jax.distributed.mesh import create_mesh
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import initial_variables, parameter_masks
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.state import create_state
from tests.tiny import tiny_spec


def test_create_state_places_everything_on_every_device():
    mesh = create_mesh(8)
    model = Detector(tiny_spec())
    optimizer = create_optimizer(**parameter_masks(model))
    state = create_state(initial_variables(model), optimizer, mesh)
    assert jax.tree.structure(state.ema) == jax.tree.structure(
        {"params": state.params, "batch_stats": state.batch_stats}
    )
    for leaf in jax.tree.leaves((state.params, state.batch_stats)):
        assert leaf.dtype == jnp.float32 and leaf.sharding.device_set == set(jax.devices())
