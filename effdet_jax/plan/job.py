"""A config's train step as shapes, and what is known of it before it is compiled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from effdet_jax.classes import COCO
from effdet_jax.distributed.mesh import batch_sharding
from effdet_jax.experiment import Experiment
from effdet_jax.model.counts import summarize
from effdet_jax.model.detector import Detector
from effdet_jax.ops.anchors import IGNORED_LEVEL, feature_size
from effdet_jax.training.state import TrainState, abstract_state
from effdet_jax.training.step import Step

COCO_IMAGES = 118_287  # train2017: the schedule's length, which decides nothing here.


@dataclasses.dataclass(frozen=True)
class Job:
    """A training as far as it is known beforehand.

    Attributes:
      model: its name.
      image_size: (height, width).
      batch_size: of all devices together.
      dtype: of the computation.
      flops: of the model per image and step.
      state: bytes per device of each part of the state: parameters, optimizer, averages.
      image_bytes: of one image and its boxes, as the host sends them.
    """

    model: str
    image_size: tuple[int, int]
    batch_size: int
    dtype: str
    flops: float
    state: Mapping[str, int]
    image_bytes: int


def build(config: ConfigDict, devices: list[jax.Device]) -> tuple[Step, tuple[Any, Any], Job]:
    """(the jitted train step, its abstract arguments, the job) on these devices.

    Raises:
      ConfigError: the config can't be run on so many devices.
    """
    experiment = Experiment.from_config(
        config, devices=devices, class_names=COCO, num_examples=COCO_IMAGES
    )
    mesh, model = experiment.mesh, experiment.model
    state = abstract_state(model, experiment.optimizer, mesh)
    batch = abstract_batch(experiment)
    return experiment.step, (state, batch), job_of(model, state, batch)


def job_of(model: Detector, state: TrainState, batch: Mapping[str, jax.ShapeDtypeStruct]) -> Job:
    """What shapes tell."""
    batch_size = batch["image"].shape[0]
    multiply_adds = summarize(model.spec)["multiply_adds"]["total"]
    return Job(
        model=model.spec.name,
        image_size=model.spec.image_size,
        batch_size=batch_size,
        dtype=np.dtype(model.dtype).name,
        # Forward, gradient by activations, gradient by weights; a multiply-add is two operations.
        flops=3 * 2 * multiply_adds,
        state={
            "parameters": bytes_per_device(state.params),
            "optimizer": bytes_per_device(state.opt_state),
            "averages": bytes_per_device((state.ema, state.batch_stats)),
        },
        image_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in batch.values()) // batch_size,
    )


def abstract_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """What the step reads of a training batch."""
    images, boxes = experiment.batch_size, experiment.data_fit.max_boxes
    image_size, mesh = experiment.spec.image_size, experiment.mesh
    shapes = {
        "image": ((images, *image_size, 3), jnp.uint8),
        "content": ((images, 2), jnp.int32),
        "boxes": ((images, boxes, 4), jnp.float32),
        "labels": ((images, boxes), jnp.int32),
        "ignored": ((images, *feature_size(image_size, IGNORED_LEVEL)), jnp.bool_),
        "valid": ((images,), jnp.bool_),
    }
    if "masks" in experiment.objective.needs:
        shapes["masks"] = ((images, *image_size), jnp.uint8)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, name))
        for name, (shape, dtype) in shapes.items()
    }


def bytes_per_device(tree: Any) -> int:
    """Bytes that each device holds of abstract arrays, as they are sharded."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
