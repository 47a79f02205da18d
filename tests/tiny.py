"""The smallest network, its configuration and its variables: the soonest compiled."""

import jax
import numpy as np
from ml_collections import ConfigDict

from effdet_jax.config import get_config
from effdet_jax.convert.rules import abstract_shapes, unflatten
from effdet_jax.spec import model_spec

# As config keys below `model`.
TINY_MODEL = {
    "name": "efficientdet-lite0",
    "image_size": "64",
    "backbone": "efficientnet-tiny",
    "pyramid_cells": 1,
    "head_depth": 1,
}


def changed_config(**changes) -> ConfigDict:
    """The default configuration but for `changes`, by full key."""
    config = get_config()
    config.update_from_flattened_dict(changes)
    return config


def tiny_config(**changes) -> ConfigDict:
    """The default configuration with the smallest network; `changes` by full key."""
    return changed_config(
        **{f"model.{knob}": value for knob, value in TINY_MODEL.items()} | changes
    )


def tiny_spec(name: str = "efficientdet-lite0", **changes):
    """One block per stage, one cell, heads one deep, 64 px, two classes: the soonest compiled.

    Its backbone has no residual branch, so nothing for drop-connect to drop.
    """
    tiny = {
        "backbone": "efficientnet-tiny",
        "image_size": (64, 64),
        "num_classes": 2,
        "pyramid_cells": 1,
        "head_depth": 1,
    }
    return model_spec(name, **{**tiny, **changes})


def random_variables(model, seed: int = 0):
    """Variables of a model, drawn by numpy: compiling `model.init` takes many times as long."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = max(1, leaf.size // leaf.shape[-1]) if leaf.shape[-2] > 1 else 9
            return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)
        if name in ("var", "scale", "weights"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    shapes = unflatten(abstract_shapes(model.spec))
    return jax.device_put(jax.tree.map_with_path(draw, shapes))
