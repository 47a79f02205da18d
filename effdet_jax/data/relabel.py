"""A source whose labels are those of other classes: matched by name, for evaluation."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from effdet_jax.classes import IGNORED_PIXEL, ClassNames
from effdet_jax.data.example import DataError, Example, GroundTruth, Source


def match_classes(source: Source, class_names: ClassNames) -> Source:
    """The source with the labels of `class_names`, which are what a model predicts.

    Category ids stay the source's own, for result files.

    Raises:
      DataError: the source has classes of other names.
    """
    try:
        matched = class_names.with_ids_of(source.class_names)
    except ValueError as error:
        raise DataError(
            f"the model has no class {error}; it has {len(class_names)}: {class_names.preview(8)}. "
            "Classes are matched by name"
        ) from error
    return source if matched == source.class_names else _Relabelled(source, matched)


class _Relabelled:
    """A `data.example.Source` with the classes of another one, by name."""

    endless = False

    def __init__(self, source: Source, class_names: ClassNames):
        self._source, self.class_names, self.report = source, class_names, source.report
        index_of = class_names.index_of_name()
        self._labels = np.array([index_of.get(name, -1) for name in source.class_names.names])
        self._pixels = np.arange(IGNORED_PIXEL + 1, dtype=np.uint8)  # A class is 1 + its index.
        self._pixels[1 : 1 + len(self._labels)] = np.where(
            self._labels < 0, IGNORED_PIXEL, 1 + self._labels
        )[: IGNORED_PIXEL - 1]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        mask = None if example.mask is None else self._pixels[example.mask]
        return dataclasses.replace(example, truth=self._relabel(example.truth), mask=mask)

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def ground_truth(self) -> Iterator[GroundTruth]:
        return map(self._relabel, self._source.ground_truth())

    def _relabel(self, truth: GroundTruth) -> GroundTruth:
        return dataclasses.replace(truth, labels=self._labels[truth.labels].astype(np.int32))
