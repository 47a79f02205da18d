"""A detector for inference alone: batch normalisations folded into the convolutions before them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from effdet_jax.layers.batch_norm import BatchNorm
from effdet_jax.model.detector import Detector


def fold_batch_norm(
    model: Detector, variables: Mapping[str, Any]
) -> tuple[Detector, dict[str, Any]]:
    """`(model, variables)` that compute the same with fewer operations, within 1e-5.

    What is frozen can't be trained or saved as a checkpoint; it has the same `apply` as before.

    Args:
      model: the detector.
      variables: its params and batch_stats.

    Raises:
      ValueError: they are frozen already.
    """
    if "batch_stats" not in variables:
        raise ValueError("the variables have no batch_stats: they are frozen already")
    spec = dataclasses.replace(model.spec, redundant_bias=False)
    fold = jax.jit(lambda variables: _fold(variables, model.spec.backbone_epsilon))
    return model.clone(spec=spec), fold(dict(variables))


def _fold(variables: Mapping[str, Any], backbone_epsilon: float) -> dict[str, Any]:
    params = flatten_dict(variables["params"])
    stats = flatten_dict(variables["batch_stats"])
    folded = dict(params)
    for path in {path[:-1] for path in stats}:
        epsilon = backbone_epsilon if path[0] == "backbone" else BatchNorm.epsilon
        conv, shared = _convolution_before(path, params)
        gain = folded.pop((*path, "scale")) * lax.rsqrt(stats[*path, "var"] + epsilon)
        offset = params.get((*conv, "bias"), 0.0) - stats[*path, "mean"]
        folded.pop((*conv, "bias"), None)
        folded[*path, "shift"] = folded.pop((*path, "bias")) + offset * gain
        if shared:
            folded[*path, "gain"] = gain
        else:
            folded[*conv, "kernel"] = params[*conv, "kernel"] * gain
    return {"params": unflatten_dict(folded)}


def _convolution_before(
    path: tuple[str, ...], params: Mapping[tuple[str, ...], Any]
) -> tuple[tuple[str, ...], bool]:
    """(path of the convolution that a batch normalisation follows, whether others follow it too).

    A head's convolutions are shared by all levels, its normalisations 'bn_0_P3' are not.
    """
    *parent, name = path
    if "_P" in name:
        return (*parent, name.split("_P")[0].replace("bn", "conv"), "pointwise"), True
    conv = (*parent, name.replace("bn", "conv"))
    return (conv if (*conv, "kernel") in params else (*conv, "pointwise")), False
