"""Whether seeds tell entries of a group from its first one; numbers only.

A paired design: with one seed all entries see the same scenes in the same order, so what counts is
the difference to the first entry with the same seed, and how it varies from seed to seed.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Row:
    """An entry and how it compares.

    Attributes:
      name: of the entry.
      values: its AP per seed.
      differences: to the first entry's, seed by seed; none for the first entry itself.
      margin: what the mean difference must exceed; infinite if nothing is known of the spread.
    """

    name: str
    values: tuple[float, ...]
    differences: tuple[float, ...]
    margin: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The seeds' standard deviation; None with one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """The mean of the differences; None for the first entry."""
        return statistics.fmean(self.differences) if self.differences else None

    @property
    def is_told_apart(self) -> bool:
        """Whether all differences have one sign and their mean exceeds the margin."""
        if not self.differences:
            return False
        one_sign = min(self.differences) > 0 or max(self.differences) < 0
        return one_sign and abs(statistics.fmean(self.differences)) > self.margin


def compare(values: Mapping[str, Sequence[float]]) -> list[Row]:
    """A row per entry, in order.

    The margin of an entry with n seeds is t·s/√n: s the standard deviation of differences, pooled
    over the entries, of which few have enough seeds for one of their own; t Student's for
    `CONFIDENCE`, two-sided, with as many degrees of freedom as were pooled.

    Args:
      values: {entry: AP per seed, the seeds in one order}; the first entry is the reference. Where
        an entry has fewer seeds than the first, the common ones are compared.
    """
    reference, *others = values
    differences = {
        name: tuple(value - base for value, base in zip(values[name], values[reference]))
        for name in others
    }
    freedom = sum(len(row) - 1 for row in differences.values())
    squares = sum(
        (len(row) - 1) * statistics.variance(row) for row in differences.values() if row[1:]
    )
    half_width = _student(freedom) * math.sqrt(squares / freedom) if freedom else math.inf
    rows = [Row(reference, tuple(values[reference]), (), math.inf)]
    for name, row in differences.items():
        rows.append(Row(name, tuple(values[name]), row, half_width / math.sqrt(len(row))))
    return rows


def _student(freedom: int) -> float:
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def verdict(rows: Sequence[Row]) -> str:
    """Which entries the seeds tell from the first one, and by which rule, in sentences."""
    reference, *others = rows
    seeds = len(reference.values)
    if not others:
        return f"There is nothing to compare {reference.name} with."
    if all(math.isinf(row.margin) for row in others):
        return (
            f"With {seeds} seed nothing is known of the spread: no difference is told from chance."
        )
    sentences = []
    apart = [f"{row.name} ({row.difference:+.3f})" for row in others if row.is_told_apart]
    alike = [row.name for row in others if not row.is_told_apart]
    if apart:
        sentences.append(f"{seeds} seeds tell from {reference.name}: {', '.join(apart)}.")
    if alike:
        sentences.append(f"{seeds} seeds don't tell from {reference.name}: {', '.join(alike)}.")
    sentences.append(
        "A difference counts if every seed gives it one sign and its mean exceeds "
        f"{others[0].margin:.3f}: {100 * CONFIDENCE:.0f} % of Student's t, with the spread of "
        "differences pooled over the group. Of twenty entries that are equal one would count, too."
    )
    return " ".join(sentences)
