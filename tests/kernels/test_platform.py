import jax
import jax.numpy as jnp

from effdet_jax.distributed.mesh import make_mesh
from effdet_jax.kernels.platform import by_platform

FORMS = {"cpu": lambda x: x + 1, "default": lambda x: x + 2, "split_cpu": lambda x: x + 3}


def choose(x):
    return by_platform(x, **FORMS)


def test_without_a_mesh_the_program_chooses_where_it_is_lowered():
    assert jax.jit(choose)(1.0) == 2.0
    jaxpr = str(jax.make_jaxpr(choose)(1.0))
    assert "platform_index" in jaxpr


def test_a_mesh_fixes_the_choice_while_tracing():
    for spatial, expected in ((1, 2.0), (2, 4.0)):
        mesh = make_mesh(8, spatial=spatial)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            jaxpr = jax.make_jaxpr(lambda x: choose(x))(jnp.float32(1.0))
        assert "platform_index" not in str(jaxpr)
        assert jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, 1.0) == [expected]
