"""A detector's variables without running it: their shapes, and what a new one starts from."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from effdet_jax.layers.convolution import KernelInit
from effdet_jax.model.detector import Detector
from effdet_jax.spec import ModelSpec

# Of what isn't drawn, by name; the others start from 0.
_ONES = ("/scale", "/var", "/weights")


def abstract_variables(model: Detector) -> dict[str, Any]:
    """`{'params', 'batch_stats'}` of shapes and dtypes; nothing is computed."""
    return jax.tree.map(lambda leaf: leaf, _describe(model.spec)[0])  # The caller's own tree.


def initial_variables(model: Detector, seed: int = 0) -> dict[str, Any]:
    """`{'params', 'batch_stats'}` of a new detector, as numpy arrays.

    They have the distributions of `model.init`, drawn by numpy: XLA takes ten times as long to
    compile hundreds of draws as this to run. A tensor's values follow from seed, path and shape:
    they are the same on every platform and whatever the other tensors are.
    """
    shapes, inits = _describe(model.spec)

    def start(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("/kernel"):
            rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
            return inits[path].draw(rng, shape)
        return np.full(shape, inits.get(path, float(path.endswith(_ONES))), np.float32)

    flat = traverse_util.flatten_dict(shapes, sep="/")
    started = {path: start(path, leaf.shape) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(started, sep="/")


def trace(
    model: Detector, listen: Callable[..., Any], image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """`abstract_variables`, with `listen` called instead of every module's methods (Flax's
    `intercept_methods`); `image_size` is the spec's if not given.
    """
    images = jax.ShapeDtypeStruct((1, *(image_size or model.spec.image_size), 3), jnp.float32)
    with nn.intercept_methods(listen):
        # A function of its own: jax would not trace one again that it has seen.
        return dict(jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), images))


@functools.lru_cache(maxsize=16)
def _describe(spec: ModelSpec) -> tuple[dict[str, Any], dict[str, KernelInit | float]]:
    """(abstract variables, by path: how kernels are drawn and biases that don't start from 0)."""
    inits: dict[str, KernelInit | float] = {}

    def listen(call, args, kwargs, context):
        for name, attribute in (("kernel", "kernel_init"), ("bias", "initial_bias")):
            if hasattr(context.module, attribute):
                path = "/".join(("params", *context.module.path, name))
                inits[path] = getattr(context.module, attribute)
        return call(*args, **kwargs)

    # Nothing depends on the image's size: the least is the quickest.
    side = 2**spec.max_level
    return trace(Detector(spec), listen, (side, side)), inits
