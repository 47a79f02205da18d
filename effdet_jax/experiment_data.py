"""What a config says of data, and what the data decides of the config."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import ClassNames
from effdet_jax.config import ConfigError
from effdet_jax.data.augment import check_ops
from effdet_jax.data.check import note_copies
from effdet_jax.data.example import Source
from effdet_jax.data.headers import HEADERS_CHECKED
from effdet_jax.data.relabel import match_classes
from effdet_jax.data.source import open_source
from effdet_jax.data.subset import covering
from effdet_jax.detection.anchor_fit import aspect_factors
from effdet_jax.detection.objective import needs
from effdet_jax.inference.load import initial_kind
from effdet_jax.model.detector import check_spec
from effdet_jax.run.data_fit import DataFit
from effdet_jax.run.decisions import Decision, Facts, decide
from effdet_jax.spec import ModelSpec, model_spec


@dataclasses.dataclass(frozen=True, eq=False)
class ExperimentData:
    """The part of an `experiment.Experiment` that opens data and settles its config.

    Attributes:
      asked: all knobs as they were given, valid; a copy of its own.
      devices: to compute on; all there are if None.
      given_class_names, given_num_examples: if the training data isn't to be asked.
      earlier: the configuration that this run was begun with, plain; what it decided stays.
    """

    asked: ConfigDict
    devices: Sequence[jax.Device] | None = None
    given_class_names: ClassNames | None = None
    given_num_examples: int | None = None
    earlier: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(
        cls,
        config: ConfigDict,
        *,
        devices: Sequence[jax.Device] | None = None,
        class_names: ClassNames | None = None,
        num_examples: int | None = None,
        earlier: Mapping[str, Any] | None = None,
    ) -> "ExperimentData":
        """The experiment of a config; it opens nothing and starts no device.

        Args:
          config: from `config.get_config` or a file in `configs/`.
          devices: to compute on instead of all.
          class_names, num_examples: instead of the training data's, for what needs no data.
          earlier: the configuration that the run was begun with, to go on with what it decided.

        Raises:
          ConfigError, AugmentError: a knob has an impossible value.
        """
        configs.validate(config)
        check_ops(config.augment.ops)
        config = config.copy_and_resolve_references()
        at_home = {
            knob: os.path.expanduser(value)
            for knob, value in configs.flatten(config).items()
            if isinstance(value, str) and value.startswith("~")
        }
        config.update_from_flattened_dict(at_home)
        return cls(config, devices, class_names, num_examples, earlier or {})

    @functools.cached_property
    def decisions(self) -> list[Decision]:
        """What the data decides of what was left open; opens the training data if anything was."""
        flat, earlier = configs.flatten(self.asked), configs.flatten(self.earlier)
        left_open = [knob for knob, value in configs.OPEN.items() if flat[knob] == value]
        if self.given_class_names and not self.given_num_examples:
            return []  # No data is to be asked.
        kept = [knob for knob in left_open if earlier.get(knob, flat[knob]) != flat[knob]]
        decisions = [Decision(knob, earlier[knob], "as this run began") for knob in kept]
        if left_open == kept:
            return decisions
        flat |= {knob: earlier[knob] for knob in kept}
        facts = Facts(
            self.given_num_examples or len(self.train_source),
            len(self.devices or jax.devices()),
            initial_kind(self.asked.init) if self.asked.init else "",
        )
        if flat["model.anchor_scale"] == configs.OPEN["model.anchor_scale"] and not (
            self.given_class_names
        ):
            decisions.append(self._anchor_decision(facts))
        return decisions + decide(flat, facts)

    def _anchor_decision(self, facts: Facts) -> Decision:
        spec = create_spec(self.asked.model, len(self.class_names), self.intensity)
        fit = None if facts.init == "detector" else self.data_fit.fit_anchors(spec)
        if fit is None:
            reason = "as the initial weights have it" if facts.init else "there are no boxes"
            return Decision("model.anchor_scale", spec.anchor_scale, reason)
        return Decision("model.anchor_scale", fit.anchor_scale, fit.reason)

    @functools.cached_property
    def config(self) -> ConfigDict:
        """All knobs, nothing left open."""
        config = self.asked.copy_and_resolve_references()
        config.update_from_flattened_dict({made.knob: made.value for made in self.decisions})
        return config

    # Data.

    def open_source(self, split: str, *, intensity: tuple[float, ...] = ()) -> Source | None:
        """The images and boxes of 'train' or 'val', opened anew; see `data.source.open_source`."""
        data = self.asked.data.to_dict()
        data["intensity"] = data["intensity"] or intensity
        data["needs"] = needs(self.asked.model.objective)
        source = open_source(data["source"], split, data)
        return covering(source, data["overfit"]) if data["overfit"] else source

    @functools.cached_property
    def train_source(self) -> Source:
        """The training data."""
        return self.open_source("train")

    @functools.cached_property
    def val_source(self) -> Source | None:
        """The validation data with the labels of the training data, by name; None if there is none.
        The training data themselves where those are to be overfitted.

        Raises:
          DataError: it has classes that the training data hasn't.
        """
        if self.asked.data.overfit:
            return self.train_source
        source = self.open_source("val", intensity=self.intensity)
        if source is None:
            return None
        note_copies({"train": self.train_source, "val": source}, most=HEADERS_CHECKED)
        return match_classes(source, self.class_names)

    @property
    def intensity(self) -> tuple[float, ...]:
        """Values of 16-bit and float images that become 0 and 255; () if there are none."""
        if self.asked.data.intensity or self.given_class_names:
            return self.asked.data.intensity
        return getattr(self.train_source, "intensity", ())

    @functools.cached_property
    def class_names(self) -> ClassNames:
        """Those given, or those of the training data."""
        return self.given_class_names or self.train_source.class_names

    @functools.cached_property
    def data_fit(self) -> DataFit:
        """What the training data decide: ground-truth slots, repeats, weights of the classes."""
        data, source = self.asked.data, None if self.given_class_names else self.train_source
        return DataFit(source, data.max_boxes, data.balance, self.asked.loss.class_weights)


def create_spec(
    knobs: ConfigDict, num_classes: int, intensity: tuple[float, ...] = ()
) -> ModelSpec:
    """The variant that the knobs below `config.model` name, and what they change.

    Raises:
      ConfigError: there is no such model.
    """
    # Knobs are fields of a spec, '' and 0 the model's own; but for these.
    others = ("name", "image_size", "aspects", "drop_connect", "dropout")
    changes: dict[str, Any] = {"intensity": intensity} | {
        name: value
        for name, value in knobs.items()
        if value and value != configs.OPEN.get(f"model.{name}") and name not in others
    }
    if knobs.image_size:
        changes["image_size"] = configs.parse_size(knobs.image_size)
    if knobs.drop_connect >= 0:
        changes["survival_probability"] = 1.0 - knobs.drop_connect
    if knobs.dropout >= 0:
        changes["dropout"] = knobs.dropout
    try:
        if knobs.aspects:
            changes["aspects"] = aspect_factors(knobs.aspects)
        spec = model_spec(knobs.name, num_classes=num_classes, **changes)
        check_spec(spec)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from error
    return spec
