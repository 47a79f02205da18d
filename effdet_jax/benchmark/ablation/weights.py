"""Fusion weights over a training, from the checkpoints that it kept: the paper's figure 5."""

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from effdet_jax.checkpoint import LAST, Checkpoints, abstract_arrays
from effdet_jax.model.detector import Detector
from effdet_jax.model.graphs import PYRAMIDS
from effdet_jax.model.initialize import abstract_variables
from effdet_jax.model.merge import normalized_weights
from effdet_jax.spec import ModelSpec

Weights = dict[str, dict[str, float]]  # Node → input → its weight.


def weight_history(workdir: str) -> dict[int, Weights]:
    """{step: {node: {input: weight}}} of a run's first pyramid cell, averaged weights, by step.

    Weights are normalised as the model does; those per channel are means over the channels. Nodes
    of one input are left out. Step 0, of which there is no checkpoint, has the initial weights.
    """
    checkpoints = Checkpoints(os.path.join(workdir, LAST), read_only=True)
    spec = checkpoints.metadata().spec
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = abstract_arrays(abstract_variables(Detector(spec)), sharding)
    cells = {
        step: checkpoints.restore(step, ema=abstract)["ema"]["params"]["pyramid"]["cell_0"]
        for step in checkpoints.steps
    }
    cells = {0: jax.tree.map(np.ones_like, cells[min(cells)]), **cells}
    checkpoints.close()
    return {step: node_weights(spec, cell) for step, cell in cells.items()}


def node_weights(spec: ModelSpec, cell: Mapping[str, dict]) -> Weights:
    """{node: {input: weight}} of a pyramid cell's parameters."""
    flat = traverse_util.flatten_dict(dict(cell), sep="/")
    found: Weights = {}
    for node in PYRAMIDS[spec.pyramid](spec.min_level, spec.max_level):
        weights = flat.get(f"{node.name}/fusion/weights")
        if weights is None or len(node.inputs) == 1:
            continue
        method = (node.merge or spec.fusion).removeprefix("channel_")
        shares = np.asarray(normalized_weights(jnp.asarray(weights), method))
        means = shares.reshape(len(node.inputs), -1).mean(axis=1)
        found[node.name] = dict(zip(node.inputs, map(float, means)))
    return found
