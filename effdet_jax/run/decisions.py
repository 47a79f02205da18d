"""What a config leaves open, decided by the data: a value and its reason for every such knob."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from effdet_jax.config import OPEN

# Below this a batch's own statistics are too noisy to train batch normalisation on.
LEAST_BATCH = 8
EVALUATIONS = 8  # In a run.


@dataclasses.dataclass(frozen=True)
class Decision:
    """A knob's value, and why it is that: a clause such as '205 images'."""

    knob: str
    value: Any
    reason: str

    def line(self) -> str:
        """For the banner."""
        shown = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{self.knob} {shown}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What decisions are made of.

    Attributes:
      num_images: of training.
      num_devices: that share a batch.
      init: what the initial weights are of: '' for none, 'backbone', 'detector'.
    """

    num_images: int
    num_devices: int = 1
    init: str = ""


def decide(flat: Mapping[str, Any], facts: Facts) -> list[Decision]:
    """A decision for every knob of `OPEN` that `flat` leaves open, but for the anchors.

    Args:
      flat: {'optim.learning_rate': -1.0, …}, the whole config by full key.
    """
    values, decisions = dict(flat), []
    for knob, rule in _RULES.items():  # In this order: later ones look at what earlier ones chose.
        if values[knob] == OPEN[knob]:
            values[knob], reason = rule(values, facts)
            decisions.append(Decision(knob, values[knob], reason))
    return decisions


def _batch_size(values: Mapping[str, Any], facts: Facts) -> tuple[int, str]:
    wanted = 8 if facts.num_images < 2000 else 16
    size = math.ceil(wanted / facts.num_devices) * facts.num_devices
    devices = "a device" if facts.num_devices == 1 else f"{facts.num_devices} devices"
    return size, f"{facts.num_images} images on {devices}"


def _num_epochs(values: Mapping[str, Any], facts: Facts) -> tuple[float, str]:
    """A small set needs many passes for its number of steps, a large one few."""
    epochs = 30 * math.sqrt(200 / facts.num_images)
    what = {"": "without initial weights", "backbone": "from an ImageNet backbone"}
    if not facts.init:
        epochs *= 2.5
    epochs = float(min(100, max(12, round(epochs))))
    steps = epochs * facts.num_images / values["batch_size"]
    return epochs, (
        f"{facts.num_images} images {what.get(facts.init, 'from a detector')}, {steps:.0f} steps"
    )


def _bn(values: Mapping[str, Any], facts: Facts) -> tuple[str, str]:
    batch = values["batch_size"] // values["microbatches"]
    if batch >= LEAST_BATCH or not facts.init:
        return "train", f"{batch} images are normalised together"
    value = "frozen" if facts.init == "detector" else "frozen_backbone"
    return value, f"only {batch} images would be normalised together; statistics come with `init`"


def _learning_rate(values: Mapping[str, Any], facts: Facts) -> tuple[float, str]:
    rate = {"adamw": 0.016, "sgd": 0.08}[values["optim.name"]]
    return (
        rate,
        f"per 64 images, {rate * values['batch_size'] / 64:g} for a batch; {values['optim.name']}",
    )


def _warmup_epochs(values: Mapping[str, Any], facts: Facts) -> tuple[float, str]:
    return 0.05 * values["num_epochs"], "5 % of the run"


def _ema_decay(values: Mapping[str, Any], facts: Facts) -> tuple[float, str]:
    steps = values["num_steps"] or values["num_epochs"] * facts.num_images / values["batch_size"]
    decay = round(min(0.9998, max(0.9, 1 - 10 / max(steps, 1))), 4)
    return decay, "averages a tenth of the run"


def _eval_every(values: Mapping[str, Any], facts: Facts) -> tuple[float, str]:
    return values["num_epochs"] / EVALUATIONS, f"{EVALUATIONS} evaluations"


_RULES = {
    "batch_size": _batch_size,
    "num_epochs": _num_epochs,
    "bn": _bn,
    "optim.learning_rate": _learning_rate,
    "optim.warmup_epochs": _warmup_epochs,
    "optim.ema_decay": _ema_decay,
    "eval.every_epochs": _eval_every,
}
