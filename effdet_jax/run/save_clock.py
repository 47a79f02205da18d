"""Checkpoints by the clock, besides those by the epoch."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils


class SaveClock:
    """Says when the last checkpoint is long ago.

    Args:
      minutes: between checkpoints; 0 for never.
    """

    def __init__(self, minutes: float):
        self._seconds = 60.0 * minutes
        self.reset()

    def reset(self):
        """A checkpoint has been written."""
        self._saved = time.monotonic()

    def due(self, *, agreed: bool) -> bool:
        """Whether it is time for a checkpoint.

        Args:
          agreed: all processes are at the same step and can hear what the first one's clock says;
            among several, nothing is due otherwise.
        """
        if not self._seconds or (jax.process_count() > 1 and not agreed):
            return False
        late = time.monotonic() - self._saved >= self._seconds
        if jax.process_count() == 1:
            return late
        return bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))
