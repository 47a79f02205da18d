"""The one door from a config to objects: data, model, mesh, schedule, optimizer, step, evaluator."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.checkpoint import Checkpoints, Metadata
from effdet_jax.classes import ClassNames
from effdet_jax.config import ConfigError
from effdet_jax.data.augment import check_ops
from effdet_jax.data.check import note_copies
from effdet_jax.data.example import DataError, Source
from effdet_jax.data.headers import HEADERS_CHECKED
from effdet_jax.data.pipeline import Batch, train_batches
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.data.source import open_source
from effdet_jax.detection.objective import Objective, create_objective
from effdet_jax.distributed.mesh import create_mesh, process_share
from effdet_jax.evaluation.loop import Evaluation, create_evaluator
from effdet_jax.model.detector import Detector, check_spec
from effdet_jax.model.initialize import parameter_masks
from effdet_jax.run.banner import banner_lines
from effdet_jax.run.initialize import create_initial_state, load_state
from effdet_jax.run.monitor import Monitor
from effdet_jax.run.schedule import Schedule
from effdet_jax.spec import ModelSpec, model_spec
from effdet_jax.training.optimizer import create_optimizer, learning_rate_schedule
from effdet_jax.training.state import TrainState
from effdet_jax.training.step import Step, create_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What a config describes. Every part is made when it is first asked for, once.

    Nothing else reads a `ConfigDict`: what is made here takes plain arguments. Any part raises
    `ConfigError` if the config doesn't allow it, and those made of data `DataError`.

    Attributes:
      config: all knobs, valid; a copy of its own.
      devices: to compute on; all there are if None.
      given_class_names, given_num_examples: if the training data isn't to be asked.
    """

    config: ConfigDict
    devices: Sequence[jax.Device] | None = None
    given_class_names: ClassNames | None = None
    given_num_examples: int | None = None

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        *,
        devices: Sequence[jax.Device] | None = None,
        class_names: ClassNames | None = None,
        num_examples: int | None = None,
    ) -> "Experiment":
        """The experiment of a config; it opens nothing and starts no device.

        Args:
          config: from `config.get_config` or a file in `configs/`.
          devices: to compute on instead of all.
          class_names, num_examples: instead of the training data's, for what needs no data.

        Raises:
          ConfigError, AugmentError: a knob has an impossible value.
        """
        configs.validate(config)
        check_ops(config.augment.ops)
        return cls(config.copy_and_resolve_references(), devices, class_names, num_examples)

    # Data.

    def open_source(self, split: str, *, intensity: tuple[float, ...] = ()) -> Source:
        """The images and boxes of 'train' or 'val', opened anew; see `data.source.open_source`."""
        data = self.config.data.to_dict()
        data["intensity"] = data["intensity"] or intensity
        return open_source(data["source"], split, data)

    @functools.cached_property
    def train_source(self) -> Source:
        """The training data."""
        return self.open_source("train")

    @functools.cached_property
    def val_source(self) -> Source:
        """The validation data.

        Raises:
          DataError: its classes aren't those of the training data.
        """
        source = self.open_source("val", intensity=self.intensity)
        if different := self.class_names.difference(source.class_names):
            raise DataError(f"training and validation data differ in their classes: {different}")
        note_copies({"train": self.train_source, "val": source}, most=HEADERS_CHECKED)
        return source

    @property
    def intensity(self) -> tuple[float, ...]:
        """Values of 16-bit and float images that become 0 and 255; () if there are none."""
        if self.config.data.intensity or self.given_class_names:
            return self.config.data.intensity
        return getattr(self.train_source, "intensity", ())

    @functools.cached_property
    def class_names(self) -> ClassNames:
        """Those given, or those of the training data."""
        return self.given_class_names or self.train_source.class_names

    @functools.cached_property
    def augment_settings(self) -> AugmentSettings:
        """The random transforms of training, and the canvas they end on."""
        return AugmentSettings(self.spec.image_size, **self.config.augment)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This process's share of the training batches from `start_step` on, endless."""
        process_index, process_count = process_share(self.mesh)
        return train_batches(
            self.train_source,
            self.augment_settings,
            batch_size=self.batch_size,
            max_boxes=self.config.data.max_boxes,
            seed=self.config.seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            workers=self.config.data.workers,
            threads=self.config.data.threads,
        )

    # Devices and the model.

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as the config arranges them: data × fsdp × spatial."""
        try:
            return create_mesh(
                self.batch_size,
                fsdp=self.config.mesh.fsdp,
                spatial=self.config.mesh.spatial,
                microbatches=self.config.microbatches,
                devices=self.devices,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """The variant by name, and what the config changes."""
        # Knobs are fields of a spec, '' and 0 the model's own; but for these three.
        knobs, others = self.config.model, ("name", "image_size", "drop_connect")
        changes: dict[str, Any] = {"intensity": self.intensity}
        changes |= {name: value for name, value in knobs.items() if value and name not in others}
        if knobs.image_size:
            changes["image_size"] = configs.parse_size(knobs.image_size)
        if knobs.drop_connect >= 0:
            changes["survival_probability"] = 1.0 - knobs.drop_connect
        try:
            spec = model_spec(knobs.name, num_classes=len(self.class_names), **changes)
            check_spec(spec)
        except ValueError as error:
            raise ConfigError(f"config.model: {error}") from error
        return spec

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """What networks compute in; 'auto' is bfloat16 on TPU and GPU, float32 on a CPU."""
        if self.config.dtype == "auto":
            device, *_ = self.devices or jax.devices()
            return jnp.dtype(jnp.float32 if device.platform == "cpu" else jnp.bfloat16)
        return jnp.dtype(self.config.dtype)

    @functools.cached_property
    def model(self) -> Detector:
        """The detector.

        Raises:
          ConfigError: its image can't be split as the mesh asks; the message says what could.
        """
        rows, shards = self.spec.image_size[0], self.config.mesh.spatial
        if rows % shards:
            raise ConfigError(
                f"{rows} image rows don't divide by mesh.spatial {shards}; use an image size that "
                f"does (--config.model.image_size={-(-rows // shards) * shards}"
                f"x{self.spec.image_size[1]}) or --config.mesh.spatial=1"
            )
        return Detector(self.spec, self.class_names, self.dtype, self.config.remat)

    # Training.

    @property
    def batch_size(self) -> int:
        """Images of a step, of all devices together."""
        return self.config.batch_size

    @property
    def keep_checkpoints(self) -> int:
        """How many of the last checkpoints stay."""
        return self.config.keep_checkpoints

    @functools.cached_property
    def schedule(self) -> Schedule:
        """When things happen.

        Raises:
          ConfigError: nothing would happen at all.
        """
        config = self.config
        num_examples = self.given_num_examples or len(self.train_source)
        schedule = Schedule.from_epochs(
            num_examples,
            config.batch_size,
            num_epochs=config.num_epochs,
            num_steps=config.num_steps,
            warmup_epochs=config.optim.warmup_epochs,
            drop_epochs=config.optim.drop_epochs,
            eval_every_epochs=config.eval.every_epochs,
            save_every_epochs=config.checkpoint_every_epochs,
            log_every_steps=config.log_every_steps,
        )
        if schedule.total_steps < 1:
            raise ConfigError(
                f"{config.num_epochs} epochs of {num_examples} images in batches of "
                f"{config.batch_size} are zero steps; train longer or with smaller batches"
            )
        return schedule

    @property
    def peak_learning_rate(self) -> float:
        """After the warm-up: the config's is for a batch of 64, and scales with the batch."""
        return self.config.optim.learning_rate * self.batch_size / 64

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """Step → learning rate."""
        return learning_rate_schedule(
            self.config.optim.schedule,
            peak=self.peak_learning_rate,
            warmup_init=self.config.optim.warmup_init * self.batch_size / 64,
            warmup_steps=self.schedule.warmup_steps,
            total_steps=self.schedule.total_steps,
            drop_steps=self.schedule.drop_steps,
        )

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The rule of updates, without the learning rate."""
        optim = self.config.optim
        return create_optimizer(
            optim.name,
            **parameter_masks(self.model),
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            clip_norm=optim.clip_norm,
        )

    @functools.cached_property
    def objective(self) -> Objective:
        """Targets, loss and decoding of the model's heads."""
        return create_objective(self.spec, dict(self.config.loss))

    @functools.cached_property
    def step(self) -> Step:
        """`(state, batch) → (state, metrics)`, jitted, not yet compiled."""
        return create_train_step(
            self.model,
            self.objective,
            self.optimizer,
            self.learning_rate,
            self.mesh,
            seed=self.config.seed,
            ema=self.config.optim.ema_decay,
            microbatches=self.config.microbatches,
        )

    @functools.cached_property
    def metadata(self) -> Metadata:
        """What a checkpoint of this experiment says about itself, at step 0."""
        return Metadata(
            self.spec, self.class_names, configs.plain(self.config), dtype=self.dtype.name
        )

    def load_or_create_state(self, checkpoints: Checkpoints) -> TrainState:
        """The state to train on from: the newest of `checkpoints`, else `config.init`, else new.

        Raises:
          CheckpointError, ConversionError: what is there can't be used.
        """
        if checkpoints.latest_step is not None:
            return load_state(self.model, self.optimizer, self.mesh, checkpoints, self.metadata)
        return create_initial_state(
            self.model, self.optimizer, self.mesh, seed=self.config.seed, init=self.config.init
        )

    def create_monitor(self) -> Monitor:
        """What follows the steps of a run."""
        return Monitor(
            batch_size=self.batch_size,
            steps_per_epoch=self.schedule.steps_per_epoch,
            total_steps=self.schedule.total_steps,
            max_bad_steps=self.config.max_bad_steps,
            describe=self.train_source.describe,
        )

    def banner_lines(self) -> list[str]:
        """What a run says before it begins; makes every part that may be refused."""
        return banner_lines(
            self.train_source,
            self.val_source,
            self.mesh,
            self.model,
            self.schedule,
            batch_size=self.batch_size,
            microbatches=self.config.microbatches,
            peak_learning_rate=self.peak_learning_rate,
        )

    # Evaluation.

    @property
    def detect_options(self) -> dict[str, Any]:
        """Keywords of `postprocess.detect`: the protocol's, but for the knobs that are set."""
        chosen, unset = self.config.eval, configs.get_config().eval
        return {
            knob: chosen[knob] if chosen[knob] != unset[knob] else protocols_own
            for knob, protocols_own in configs.PROTOCOLS[chosen.protocol].items()
        }

    def create_evaluator(
        self, model: Detector, source: Source, mesh: Mesh
    ) -> Callable[[Any], Evaluation]:
        """`variables → Evaluation` of any model on any source, by this config's protocol."""
        batch_size = self.config.eval.batch_size or self.batch_size
        return create_evaluator(model, source, mesh, batch_size=batch_size, **self.detect_options)

    @functools.cached_property
    def evaluator(self) -> Callable[[Any], Evaluation]:
        """`variables → Evaluation` of this model on the validation data, compiled once."""
        return self.create_evaluator(self.model, self.val_source, self.mesh)
