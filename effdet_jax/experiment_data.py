"""What a config says of data, and what the data decides of the config."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from effdet_jax import config as configs
from effdet_jax.classes import ClassNames
from effdet_jax.data.augment import check_ops
from effdet_jax.data.example import DataError, Source
from effdet_jax.data.source import open_source
from effdet_jax.inference.load import initial_kind
from effdet_jax.run.decisions import Decision, Facts, decide


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
        return cls(config, devices, class_names, num_examples, earlier or {})

    @functools.cached_property
    def decisions(self) -> list[Decision]:
        """What the data decides of what was left open; opens the training data if anything was."""
        flat, earlier = configs.flatten(self.asked), configs.flatten(self.earlier)
        left_open = [knob for knob, value in configs.OPEN.items() if flat[knob] == value]
        if not left_open:
            return []
        kept = [knob for knob in left_open if earlier.get(knob, flat[knob]) != flat[knob]]
        decisions = [Decision(knob, earlier[knob], "as this run began") for knob in kept]
        flat |= {knob: earlier[knob] for knob in kept}
        facts = Facts(
            self.given_num_examples or len(self.train_source),
            len(self.devices or jax.devices()),
            initial_kind(self.asked.init) if self.asked.init else "",
        )
        return decisions + decide(flat, facts)

    @functools.cached_property
    def config(self) -> ConfigDict:
        """All knobs, nothing left open."""
        config = self.asked.copy_and_resolve_references()
        config.update_from_flattened_dict({made.knob: made.value for made in self.decisions})
        return config

    # Data.

    def open_source(self, split: str) -> Source:
        """The images and boxes of 'train' or 'val', opened anew.

        Raises:
          DataError: they can't be used; the message names the file and what to do.
        """
        data = self.asked.data
        return open_source(data.source, split, data.to_dict())

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
        source = self.open_source("val")
        if different := self.class_names.difference(source.class_names):
            raise DataError(f"training and validation data differ in their classes: {different}")
        return source

    @functools.cached_property
    def class_names(self) -> ClassNames:
        """Those given, or those of the training data."""
        return self.given_class_names or self.train_source.class_names
