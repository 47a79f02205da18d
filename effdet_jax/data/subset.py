"""Some examples of a source, as a source of their own."""

from collections.abc import Iterator, Sequence

import numpy as np

from effdet_jax.data.example import DataError, DataReport, Example, GroundTruth, Source


class Subset:
    """The examples at `indices` of `source`, in that order."""

    endless = False

    def __init__(self, source: Source, indices: Sequence[int]):
        self.class_names = source.class_names
        self._source, self._indices = source, [int(index) for index in indices]
        self._truths: list[GroundTruth] | None = None

    @property
    def report(self) -> DataReport:
        """Counts of these examples; what the source left out is in its own report."""
        report = DataReport()
        report.images = len(self)
        for truth in self.ground_truth():
            report.boxes += int(np.sum(~truth.crowd))
            report.crowd += int(np.sum(truth.crowd))
            report.empty += int(np.all(truth.crowd))
        return report

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def describe(self, index: int) -> str:
        return self._source.describe(self._indices[index])

    def ground_truth(self) -> Iterator[GroundTruth]:
        if self._truths is None:
            self._truths = _truths(self._source, self._indices)
        return iter(self._truths)


def spread(source: Source, count: int) -> Subset:
    """Up to `count` examples, evenly over the source."""
    count = min(count, len(source))
    return Subset(source, [number * len(source) // count for number in range(count)])


def covering(source: Source, count: int) -> Subset:
    """The first `count` images with boxes, but for those that show a class for the first time.

    Raises:
      DataError: no image has a box.
    """
    if source.endless:
        return Subset(source, range(count))
    truths = list(source.ground_truth())
    labels = [set(truth.labels[~truth.crowd].tolist()) for truth in truths]
    with_boxes = [index for index, some in enumerate(labels) if some]
    if not with_boxes:
        raise DataError("no image has a box: there is nothing to learn")
    seen: set[int] = set()
    chosen = []
    for index in with_boxes:  # Those that add a class, then the first of the others.
        if labels[index] - seen and len(chosen) < count:
            chosen.append(index)
            seen |= labels[index]
    others = [index for index in with_boxes if index not in chosen]
    return Subset(source, sorted(chosen + others[: count - len(chosen)]))


def _truths(source: Source, indices: Sequence[int]) -> list[GroundTruth]:
    """Ground truth by index, without decoding images where the source can tell."""
    if source.endless:
        return [source[index].truth for index in indices]
    every = list(source.ground_truth())
    return [every[index] for index in indices]
