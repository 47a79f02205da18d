"""From a config to the parts of a run: the mesh, the model, the optimizer, the compiled step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import ClassNames
from effdet_jax.data.example import Source
from effdet_jax.data.pipeline import eval_batches
from effdet_jax.detection.objective import create_objective
from effdet_jax.distributed.mesh import (
    evaluation_sharding,
    make_mesh,
    place_evaluation_batch,
    replicate,
    replicated,
)
from effdet_jax.distributed.processes import wait_for_all
from effdet_jax.evaluation.coco import coco_dataset
from effdet_jax.evaluation.loop import Evaluation, evaluate, with_rows
from effdet_jax.inference.predictor import create_detect
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.run.schedule import Plan
from effdet_jax.training.optimizer import create_optimizer, learning_rate_schedule
from effdet_jax.training.step import Step, create_train_step


def mesh_of(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, or those given, as the config arranges them.

    Raises:
      ConfigError: devices, batch or image rows don't divide; the message says what would.
    """
    try:
        return make_mesh(
            config.batch_size,
            fsdp=config.mesh.fsdp,
            spatial=config.mesh.spatial,
            microbatches=config.microbatches,
            devices=devices,
        )
    except ValueError as error:
        raise configs.ConfigError(str(error)) from error


def model_of(
    config: ConfigDict, class_names: ClassNames, dtype: DTypeLike | None = None
) -> Detector:
    """The detector for data of these classes.

    Args:
      dtype: of the computation, instead of the config's.

    Raises:
      ConfigError: there is no such model, or its image can't be split as the mesh asks.
    """
    spec = configs.spec_of(config, len(class_names))
    rows, shards = spec.image_size[0], config.mesh.spatial
    if rows % shards:
        raise configs.ConfigError(
            f"{rows} image rows don't divide by mesh.spatial {shards}; use an image size that does "
            f"(--config.model.image_size={-(-rows // shards) * shards}x{spec.image_size[1]}) or "
            "--config.mesh.spatial=1"
        )
    dtype = configs.compute_dtype(config) if dtype is None else dtype
    return Detector(spec, class_names, dtype, config.remat)


def plan_of(config: ConfigDict, num_examples: int) -> Plan:
    """When things happen in a run over so many examples.

    Raises:
      ConfigError: nothing would happen at all.
    """
    plan = Plan.of(
        num_examples,
        config.batch_size,
        num_epochs=config.num_epochs,
        num_steps=config.num_steps,
        warmup_epochs=config.optim.warmup_epochs,
        drop_epochs=config.optim.drop_epochs,
        eval_every_epochs=config.eval.every_epochs,
        save_every_epochs=config.checkpoint_every_epochs,
    )
    if plan.total_steps < 1:
        raise configs.ConfigError(
            f"{config.num_epochs} epochs of {num_examples} images in batches of "
            f"{config.batch_size} are zero steps; train longer or with smaller batches"
        )
    return plan


def peak_learning_rate(config: ConfigDict) -> float:
    """The learning rate after the warm-up: config's is for a batch of 64 (linear scaling)."""
    return config.optim.learning_rate * config.batch_size / 64


def optimizer_of(config: ConfigDict, model: Detector) -> optax.GradientTransformation:
    return create_optimizer(
        config.optim.name,
        **parameter_masks(model),
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        clip_norm=config.optim.clip_norm,
    )


def train_step_of(config: ConfigDict, model: Detector, plan: Plan, mesh: Mesh) -> Step:
    """The jitted training step, not yet compiled."""
    rate = learning_rate_schedule(
        config.optim.schedule,
        peak=peak_learning_rate(config),
        warmup_init=config.optim.warmup_init * config.batch_size / 64,
        warmup_steps=plan.warmup_steps,
        total_steps=plan.total_steps,
        drop_steps=plan.drop_steps,
    )
    return create_train_step(
        model,
        create_objective(model.spec, config.loss),
        optimizer_of(config, model),
        rate,
        mesh,
        seed=config.seed,
        ema=config.optim.ema_decay,
        microbatches=config.microbatches,
    )


def evaluator_of(
    config: ConfigDict, model: Detector, mesh: Mesh, source: Source
) -> Callable[[Any], Evaluation]:
    """variables → evaluation on `source`, compiled once; every process gets all of it."""
    detect = jax.jit(
        with_rows(create_detect(model, **configs.detect_options(config))),
        in_shardings=(replicated(mesh), evaluation_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    compiled: list[Callable[..., Any]] = []

    def detect_compiled(variables: Any, batch: Any) -> Any:
        if not compiled:
            compiled.append(detect.lower(variables, batch).compile())
            wait_for_all("evaluation compiled")
        return compiled[0](variables, batch)

    dataset = coco_dataset(source.ground_truth(), model.class_names)
    # Filled up to whole rows of devices: padding doesn't count.
    batch_size = config.eval.batch_size or config.batch_size
    batch_size = -(-batch_size // mesh.size) * mesh.size

    def run(variables: Any) -> Evaluation:
        batches = eval_batches(
            source,
            image_size=model.spec.image_size,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        place = functools.partial(place_evaluation_batch, mesh=mesh)
        return evaluate(
            detect_compiled, replicate(variables, mesh), source, batches, place, dataset
        )

    return run
