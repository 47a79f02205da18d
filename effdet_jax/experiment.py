"""The one door from a config to objects: data, model, mesh, schedule, optimizer, step, evaluator."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from effdet_jax import config as configs
from effdet_jax.checkpoint import Checkpoints, Metadata
from effdet_jax.config import ConfigError
from effdet_jax.data.example import Source
from effdet_jax.data.pipeline import Batch, train_batches
from effdet_jax.data.sample import AugmentSettings
from effdet_jax.detection.anchor_fit import AnchorFit
from effdet_jax.detection.objective import Objective, create_objective
from effdet_jax.distributed.mesh import check_rows, create_mesh, process_share
from effdet_jax.evaluation.evaluation import Evaluation
from effdet_jax.evaluation.loop import SCORERS, create_evaluator
from effdet_jax.experiment_data import ExperimentData, create_spec
from effdet_jax.inference.tta import TTA
from effdet_jax.model.detector import Detector
from effdet_jax.model.initialize import Path, parameter_masks
from effdet_jax.report.run_page import RunPage
from effdet_jax.run.banner import banner_lines
from effdet_jax.run.best import Best, choose_criterion, earlier_best
from effdet_jax.run.initialize import create_initial_state, load_state
from effdet_jax.run.metrics import MetricWriter
from effdet_jax.run.monitor import Monitor
from effdet_jax.run.recipes import nearest_recipe
from effdet_jax.run.save_clock import SaveClock
from effdet_jax.run.schedule import Schedule
from effdet_jax.run.workdir import Workdir
from effdet_jax.spec import ModelSpec
from effdet_jax.training.freeze import frozen_modules, frozen_parameters
from effdet_jax.training.optimizer import create_optimizer, learning_rate_schedule
from effdet_jax.training.state import TrainState
from effdet_jax.training.statistics import statistics_momentum
from effdet_jax.training.step import Step, create_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment(ExperimentData):
    """What a config describes. Every part is made when it is first asked for, once.

    Nothing else reads a `ConfigDict`: what is made here takes plain arguments. Any part raises
    `ConfigError` if the config doesn't allow it, and those made of data `DataError`.
    """

    # Training data on its way.

    @functools.cached_property
    def augment_settings(self) -> AugmentSettings:
        """The random transforms of training, and the canvas they end on."""
        return AugmentSettings(self.spec.image_size, crop=self.spec.crop, **self.config.augment)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This process's share of the training batches from `start_step` on, endless."""
        process_index, process_count = process_share(self.mesh)
        return train_batches(
            self.train_source,
            self.augment_settings,
            batch_size=self.batch_size,
            max_boxes=self.data_fit.max_boxes,
            repeats=self.data_fit.repeats,
            masks="masks" in self.objective.needs,
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
        # Where no data is to be opened, anchors that it would decide are the model's own.
        knobs = self.asked.model if self.given_class_names else self.config.model
        return create_spec(knobs, len(self.class_names), self.intensity)

    @functools.cached_property
    def anchor_fit(self) -> AnchorFit | None:
        """How the training data's boxes and the model's anchors go together; None for no boxes."""
        return self.data_fit.fit_anchors(self.spec)

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
        try:
            check_rows(self.spec.image_size, self.config.mesh.spatial)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return Detector(self.spec, self.class_names, self.dtype, self.config.remat)

    # Training.

    @property
    def batch_size(self) -> int:
        """Images of a step, of all devices together."""
        return self.config.batch_size

    @property
    def keep_checkpoints(self) -> int:
        """How many of the last checkpoints stay: where training diverges, an earlier one is needed."""
        return max(self.config.keep_checkpoints, 2)

    @property
    def criterion(self) -> str:
        """What the best checkpoint is best by.

        Raises:
          ConfigError: the objective doesn't measure it.
        """
        known = SCORERS[self.objective.measures].criteria
        return choose_criterion(self.config.eval.criterion, known, self.spec.objective)

    def create_best(self, checkpoints: Checkpoints, metrics_path: str, step: int) -> Best:
        """The best evaluation of the run so far, from its best checkpoint; `step` steps are done."""
        patience = self.config.eval.patience
        return earlier_best(checkpoints, metrics_path, step, self.criterion, patience)

    def create_save_clock(self) -> SaveClock:
        """Checkpoints by minutes."""
        return SaveClock(self.config.checkpoint_every_minutes)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """When things happen.

        Raises:
          ConfigError: nothing would happen at all.
        """
        config = self.config
        return Schedule.from_epochs(
            self.given_num_examples or len(self.train_source),
            config.batch_size,
            num_epochs=config.num_epochs,
            num_steps=config.num_steps,
            warmup_epochs=config.optim.warmup_epochs,
            drop_epochs=config.optim.drop_epochs,
            eval_every_epochs=config.eval.every_epochs,
            save_every_epochs=config.checkpoint_every_epochs,
            log_every_steps=config.log_every_steps,
        )

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
            decay_steps=self.config.optim.decay_epochs * self.schedule.steps_per_epoch,
            decay_rate=self.config.optim.decay_rate,
        )

    @functools.cached_property
    def frozen(self) -> frozenset[Path]:
        """The modules that don't learn.

        Raises:
          ConfigError: a pattern matches none.
        """
        patterns = [pattern.strip() for pattern in self.config.freeze.split(",") if pattern.strip()]
        norms = {"frozen": [""], "frozen_backbone": ["backbone"]}.get(self.config.bn, [])
        try:
            return frozen_modules(self.model, patterns, norms)
        except ValueError as error:
            raise ConfigError(f"--config.freeze={self.config.freeze}: {error}") from error

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The rule of updates, without the learning rate."""
        optim, masks = self.config.optim, parameter_masks(self.model)
        fixed = frozen_parameters(self.model, self.frozen)
        decayed = jax.tree.map(lambda decays, fix: decays and not fix, masks["decayed"], fixed)
        return create_optimizer(
            optim.name,
            **{**masks, "decayed": decayed},
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            clip_norm=optim.clip_norm,
        )

    @functools.cached_property
    def objective(self) -> Objective:
        """Targets, loss and decoding of the model's heads."""
        return self.create_objective(self.spec)

    def create_objective(self, spec: ModelSpec) -> Objective:
        """That of any model with these classes; opens the training data if classes have weights."""
        loss = self.asked.loss  # It has no knob that the data decide.
        weights = self.data_fit.class_weights if loss.class_weights else None
        return create_objective(spec, {**loss, "class_weights": weights})

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
            momentum=(
                statistics_momentum(self.model) if self.config.optim.warm_up_statistics else None
            ),
            frozen=self.frozen,
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
            learning_rate=self.config.optim.learning_rate,
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
            decisions=self.decisions,
        ) + self.data_fit.lines(self.anchor_fit)

    def create_writer(self, folder: Workdir, start_step: int) -> MetricWriter:
        """Where the numbers of a run go on after `start_step`."""
        config, project = configs.plain(self.config), self.config.log.wandb
        return MetricWriter(folder, start_step, wandb=project, config=config)

    def create_page(self, folder: Workdir) -> RunPage:
        """The page of a run on its validation data, or on those of training without such."""
        sources = {"train": self.train_source, "val": self.val_source}
        return RunPage(
            folder.report,
            folder.path,
            self.val_source or self.train_source,
            {split: source for split, source in sources.items() if source},
            *nearest_recipe(configs.plain(self.asked), self.decisions),
            run=folder.path,
            total_steps=self.schedule.total_steps,
        )

    # Evaluation.

    def evaluated_variables(self, state: TrainState) -> dict[str, Any]:
        """{'averaged': …, 'raw': …}: those of a state's weights that the config evaluates."""
        both = {"averaged": state.ema, "raw": state.variables}
        asked = self.config.eval.weights if self.config.optim.ema_decay else "raw"
        return both if asked == "both" else {asked: both[asked]}

    @property
    def detect_options(self) -> dict[str, Any]:
        """Keywords of `postprocess.detect`: the protocol's, but for the knobs that are set."""
        return configs.detect_options(self.asked.eval)

    def create_evaluator(
        self,
        model: Detector,
        source: Source,
        mesh: Mesh,
        objective: Objective | None = None,
        tta: TTA | None = None,
    ) -> Callable[..., Evaluation]:
        """`loop.create_evaluator` of any model on any source, by this config's protocol."""
        batch_size = self.asked.eval.batch_size or self.batch_size
        options = {"batch_size": batch_size, "objective": objective, "tta": tta}
        return create_evaluator(model, source, mesh, **options, **self.detect_options)

    @functools.cached_property
    def evaluator(self) -> Callable[..., Evaluation]:
        """`variables → Evaluation` of this model on the validation data, compiled once; needs some."""
        objective = self.objective if self.config.eval.loss else None
        return self.create_evaluator(self.model, self.val_source, self.mesh, objective)
