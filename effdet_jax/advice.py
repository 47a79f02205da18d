"""What a run says where it doesn't go well: an AP near 0, memory that is short, a set-up to prove."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from effdet_jax.config import ConfigError
from effdet_jax.data.subset import spread
from effdet_jax.evaluation.boxes import BoxEvaluation
from effdet_jax.evaluation.diagnosis import NUM_TRAIN_IMAGES, Circumstances, diagnose
from effdet_jax.experiment import Experiment
from effdet_jax.plan.planner import Planner, find_target, with_changes
from effdet_jax.run.memory import gigabytes
from effdet_jax.run.monitor import Monitor

OVERFIT_STEPS = 100
OVERFIT_RATE = 0.003  # AdamW's, whatever the batch.
LEARNED = {"eval/AP": 0.5, "eval/AP50": 0.9, "eval/top1": 0.9}  # Any of them is enough.
# What takes less memory, from what costs least; see `plan.planner.REMEDIES`.
SAVINGS = ({"remat": "blocks"}, {"microbatches": 2}, {"microbatches": 4})


def why_so_low(
    experiment: Experiment,
    result: BoxEvaluation,
    variables: Any,
    *,
    step: int,
    monitor: Monitor,
    best_ap: float,
    aps: Mapping[str, float],
) -> list[str]:
    """The lines of `diagnosis.diagnose` for an evaluation of a run; evaluates training images, too.

    Args:
      result, variables: the better ones of those weights that were evaluated.
      step: done.
      best_ap: of the evaluations before.
      aps: by kind of weights.
    """
    warms_up = experiment.config.optim.warm_up_statistics
    known = Circumstances(
        best_ap=best_ap,
        step=step,
        warmup_steps=experiment.schedule.warmup_steps,
        learning_rate=experiment.peak_learning_rate,
        loss=monitor.loss,
        smallest_loss=monitor.smallest_loss,
        aps=aps,
        # Of weights that came with statistics of their own nothing has to be forgotten.
        statistics_left=0.0 if warms_up or experiment.config.init else 0.99**step,
        score_threshold=experiment.detect_options["score_threshold"],
        anchors=experiment.anchor_fit.banner() if experiment.anchor_fit else (),
    )
    train = experiment.evaluator(variables, spread(experiment.train_source, NUM_TRAIN_IMAGES))
    return diagnose(result, experiment.val_source, known, train)


def overfit_config(config: ConfigDict, count: int) -> ConfigDict:
    """The same model and data in a run on `count` images, which it has to learn by heart.

    Nothing is drawn at random but the new layers' values, every batch has all images, and its
    statistics are those of evaluation.
    """
    config, devices = copy.deepcopy(config), jax.device_count()
    batch_size = math.ceil(count / devices) * devices
    steps_per_epoch = count / batch_size
    config.update_from_flattened_dict(
        {
            "data.overfit": count,
            "batch_size": batch_size,
            "num_epochs": float(OVERFIT_STEPS),
            "num_steps": OVERFIT_STEPS,
            "microbatches": 1,
            "freeze": "",
            "bn": "train",
            "model.drop_connect": 0.0,
            "model.dropout": 0.0,
            "augment.ops": (),
            "optim.name": "adamw",
            "optim.learning_rate": OVERFIT_RATE * 64 / batch_size,
            "optim.schedule": "cosine",
            "optim.warmup_init": 0.0,
            "optim.warmup_epochs": 0.05 * OVERFIT_STEPS / steps_per_epoch,
            "optim.momentum": 0.9,
            "optim.weight_decay": 0.0,
            "optim.ema_decay": 0.0,
            "optim.warm_up_statistics": True,
            "eval.every_epochs": 0.0,
            "eval.patience": 0,
            "checkpoint_every_epochs": float(OVERFIT_STEPS),
            "log_every_steps": 10,
        }
    )
    return config


def is_learned(metrics: Mapping[str, float]) -> bool:
    """Whether the images of such a run are known by heart."""
    return any(metrics.get(name, 0.0) >= least for name, least in LEARNED.items())


def overfit_verdict(metrics: Mapping[str, float], count: int) -> str:
    """What the metrics of such a run mean."""
    shown = {name.removeprefix("eval/"): metrics[name] for name in LEARNED if name in metrics}
    got = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    got = f"{got} on {count} images"
    if is_learned(metrics):
        return f"set-up and data are right: {got}, learned by heart in {OVERFIT_STEPS} steps"
    check = "python -m effdet_jax.check_data FOLDER"
    if next(iter(shown.values())) >= 0.1:
        return (
            f"it learns, but not all: {got}. Objects may be too small for the image size or the "
            f"anchors (--config.model.image_size=…, --config.model.anchor_scale=2); {check}"
        )
    return (
        f"set-up or data are wrong: {got} after {OVERFIT_STEPS} steps. Boxes may be in another "
        f"order or scale, or too small for the anchors: {check}, and look at train_batch.jpg of a run"
    )


def what_fits(experiment: Experiment) -> Iterator[str]:
    """Lines of what to type where a step doesn't fit, with the memory that it would take."""
    config, target = experiment.config, find_target("")
    half = max(config.batch_size // 2 // target.devices, 1) * target.devices
    candidates = [*SAVINGS, {"batch_size": half}, {"batch_size": half, "remat": "blocks"}]
    if not target.memory or jax.process_count() > 1:
        yield f"Try --config.batch_size={half}, --config.remat=blocks or --config.microbatches=2"
        return
    planner, fitting = Planner(target), 0
    for changes in candidates:
        try:
            report = planner.plan(with_changes(config, changes))
        except ConfigError:  # Not for this batch and this many devices.
            continue
        peak = gigabytes(report["memory"]["peak"])
        typed = " ".join(f"--config.{key}={value}" for key, value in changes.items())
        yield f"{typed}: {peak}, {'fits' if report['fits'] else 'too much'}"
        fitting += report["fits"]
        if fitting == 2:
            return
    if not fitting:
        yield "Smaller images take less: --config.model.image_size=…; or a smaller model"
