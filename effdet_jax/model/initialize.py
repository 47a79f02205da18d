"""A detector's variables without running it: their shapes, start values and what layers declare."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from effdet_jax.layers.initializers import KernelInit
from effdet_jax.layers.layer import decayed_parameters, separate_parameters
from effdet_jax.model.detector import Detector
from effdet_jax.spec import ModelSpec

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Description:
    """What an abstract run tells of a model.

    Attributes:
      shapes: {'params', 'batch_stats', …} of `jax.ShapeDtypeStruct`.
      modules: its modules by path, () being the model; to read attributes of, not to call.
      features: {part: {level: [1, H, W, …]}} of the parts that put out a feature per level.
    """

    shapes: Mapping[str, Any]
    modules: Mapping[Path, nn.Module]
    features: Mapping[str, Mapping[int, jax.ShapeDtypeStruct]]

    def mask(self, names_of: Callable[[nn.Module], tuple[str, ...]]) -> dict[str, Any]:
        """A tree like `params`, True for the parameters that `names_of(their module)` names."""
        flat = traverse_util.flatten_dict(self.shapes["params"])
        return traverse_util.unflatten_dict(
            {
                path: path[:-1] in self.modules and path[-1] in names_of(self.modules[path[:-1]])
                for path in flat
            }
        )


def describe(model: Detector) -> Description:
    """Shapes and modules of a model; nothing is computed. Models of equal specs share it."""
    return _describe(model.spec)


def abstract_variables(model: Detector) -> dict[str, Any]:
    """`{'params', 'batch_stats'}` of shapes and dtypes; nothing is computed."""
    return jax.tree.map(lambda leaf: leaf, dict(describe(model).shapes))  # The caller's own tree.


def parameter_masks(model: Detector) -> dict[str, Any]:
    """What layers declare of their parameters, for `training.optimizer.create_optimizer`.

    `decayed` and `separate` are trees like `params`: True for what weight decay touches, and for
    those whose rows are clipped one by one.
    """
    description = describe(model)
    return {
        "decayed": description.mask(decayed_parameters),
        "separate": description.mask(separate_parameters),
    }


def initial_variables(model: Detector, seed: int = 0) -> dict[str, Any]:
    """`{'params', 'batch_stats'}` of a new detector, as numpy arrays.

    Values are those of the modules' own initialisers. Kernels with a `KernelInit` are drawn by its
    numpy twin, from seed, path and shape: XLA takes ten times as long to compile hundreds of draws.
    """
    description = describe(model)
    drawn = {
        ("params", *path, "kernel"): module.kernel_init
        for path, module in description.modules.items()
        if isinstance(getattr(module, "kernel_init", None), KernelInit)
    }
    shapes = traverse_util.flatten_dict(dict(description.shapes))
    values = {path: np.asarray(x) for path, x in _other_values(model, seed, drawn).items()}
    for path in drawn.keys() & shapes.keys():
        rng = np.random.default_rng([seed, zlib.crc32("/".join(path).encode())])
        values[path] = drawn[path].draw(rng, shapes[path].shape)
    return traverse_util.unflatten_dict({path: values[path] for path in shapes})


def _other_values(model: Detector, seed: int, drawn: Mapping[Path, KernelInit]) -> dict[Path, Any]:
    """Start values of all variables but `drawn`, by the module itself; XLA drops what isn't asked."""

    @jax.jit
    def initialize(key):
        images = jnp.zeros((1, *model.spec.image_size, 3))
        variables = traverse_util.flatten_dict(dict(Detector(model.spec).init(key, images)))
        return {path: x for path, x in variables.items() if path not in drawn}

    return jax.device_get(initialize(jax.random.key(seed)))


@functools.lru_cache(maxsize=16)
def _describe(spec: ModelSpec) -> Description:
    modules: dict[Path, nn.Module] = {}
    features: dict[str, Mapping[int, jax.ShapeDtypeStruct]] = {}

    def listen(call, args, kwargs, context):
        path = context.module.path
        modules[path] = context.module  # Before the call: a module stands before those in it.
        result = call(*args, **kwargs)
        if len(path) == 1 and context.method_name == "__call__" and isinstance(result, Mapping):
            features[path[0]] = {
                level: jax.ShapeDtypeStruct(x.shape, x.dtype) for level, x in result.items()
            }
        return result

    images = jax.ShapeDtypeStruct((1, *spec.image_size, 3), jnp.float32)
    with nn.intercept_methods(listen):
        # A function of its own: jax would not trace one again that it has seen.
        shapes = jax.eval_shape(
            lambda key, x: Detector(spec).init(key, x), jax.random.key(0), images
        )
    # Unbound copies: the bound ones would keep all that was traced alive.
    copies = {path: module.copy() for path, module in modules.items()}
    return Description(dict(shapes), copies, features)
