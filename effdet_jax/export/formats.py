"""The file formats of an export; another one, from outside too, is one more entry of `FORMATS`."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from effdet_jax.export import stablehlo
from effdet_jax.export.detector import Function
from effdet_jax.export.verify import Batch, ExportError, Results


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
      write: `(path, function, image_size) → notes`: writes the file; what to know of it, for JSON.
      run: `(path, batches) → results` of the file read anew, each result named and shaped as the
        function's.
      tolerance: largest absolute difference (scores, pixels) that counts as equal; 0 is equal bits.
    """

    write: Callable[[str, Function, tuple[int, int]], Mapping[str, Any]]
    run: Callable[[str, Sequence[Batch]], Sequence[Results]]
    tolerance: float = 0.0


# By file ending.
FORMATS: dict[str, Format] = {
    ".stablehlo": Format(stablehlo.write, stablehlo.run),
}


def format_of(path: str) -> Format:
    """The format that a file's ending names.

    Raises:
      ExportError: there is none of that ending.
    """
    ending = os.path.splitext(path)[1]
    if ending not in FORMATS:
        raise ExportError(
            f"'{path}': there is no format '{ending}'; OUT ends in {', '.join(sorted(FORMATS))}"
        )
    return FORMATS[ending]
