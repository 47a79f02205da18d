"""This package as a contestant: what a user gets from `ed.load`, `ed.Predictor` and the train step."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from effdet_jax.benchmark.race.case import INPUTS, WEIGHTS, Case, as_result
from effdet_jax.benchmark.step import CompiledStep
from effdet_jax.detection.heads import Outputs
from effdet_jax.detection.objective import create_objective
from effdet_jax.detection.postprocess import detect
from effdet_jax.distributed.mesh import create_mesh, place_batch
from effdet_jax.inference.fold_batch_norm import fold_batch_norm
from effdet_jax.inference.load import load
from effdet_jax.inference.predictor import Predictor
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.training.optimizer import create_optimizer
from effdet_jax.training.step import create_train_step

LEARNING_RATE = 1e-3  # Constant: speed doesn't depend on it.


def prepare(name: str, case: Case, folder: pathlib.Path) -> tuple[Callable[[], Any], np.ndarray]:
    """See `runner.contestant_module`."""
    if (platform := jax.devices()[0].platform) != case.device:
        raise RuntimeError(
            f"'{case.title}' is to run on a {case.device}; jax has found a {platform}"
        )
    model, variables = load(folder / WEIGHTS)
    model = model.clone(dtype=jnp.dtype(case.dtype))
    arrays = dict(np.load(folder / INPUTS))
    prepared = {
        "forward": _forward,
        "detect": _detect,
        "postprocess": _postprocess,
        "train": _train,
    }
    return prepared[case.task](model, variables, arrays)


def gpu_peak_mib() -> float:
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20


def _forward(model: Detector, variables: Any, arrays: dict[str, np.ndarray]):
    model, variables = fold_batch_norm(model, variables)
    run = jax.jit(model.apply)
    variables, images = jax.device_put((variables, arrays["normal"]))

    def call():
        return jax.block_until_ready(run(variables, images))

    outputs = jax.device_get(call())
    return call, as_result(outputs.class_logits.values(), outputs.box_deltas.values())


def _detect(model: Detector, variables: Any, arrays: dict[str, np.ndarray]):
    photos = arrays["photos"]
    predictor = Predictor(model, variables, batch_size=len(photos), score_threshold=0.0)
    return lambda: predictor.detect(photos), predictor.detect(photos).scores


def _postprocess(model: Detector, variables: Any, arrays: dict[str, np.ndarray]):
    anchors = model.spec.anchors()
    run = jax.jit(lambda outputs: detect(outputs, anchors))
    logits, deltas = {}, {}
    start = 0
    for level, boxes in anchors.items():
        end = start + boxes.size // 4
        for levels, flat in ((logits, arrays["logits"]), (deltas, arrays["deltas"])):
            part = flat[:, start:end]
            levels[level] = jnp.asarray(part.reshape(len(part), *boxes.shape[:3], part.shape[-1]))
        start = end
    outputs = Outputs(logits, deltas)

    def call():
        return jax.block_until_ready(run(outputs))

    return call, np.asarray(call().scores)


def _train(model: Detector, variables: Any, arrays: dict[str, np.ndarray]):
    images = arrays["images"]
    mesh = create_mesh(len(images), devices=jax.devices()[:1])
    optimizer = create_optimizer(**parameter_masks(model))
    rate = optax.constant_schedule(LEARNING_RATE)
    step = create_train_step(model, create_objective(model.spec), optimizer, rate, mesh)
    batch = {
        "image": images,
        "content": np.tile(np.int32(images.shape[1:3]), (len(images), 1)),
        "boxes": arrays["boxes"],
        "labels": arrays["labels"],
        "valid": np.ones(len(images), bool),
    }
    compiled = CompiledStep(step, optimizer, variables, batch, mesh)

    def call():
        return float(compiled(place_batch(batch, mesh))["loss/total"])

    return call, np.array([call()])
