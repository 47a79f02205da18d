"""SIGTERM and Ctrl-C as a wish to stop, granted between two steps."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Within it the signals only make `requested` true, for the loop to save and leave.

    With several processes a signal to any of them stops all, after the same step.
    """

    def __init__(self):
        self._received = False
        self._previous: dict[int, Any] = {}

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; every process must ask after every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def __enter__(self):
        handlers = {signal.SIGTERM: self._receive, signal.SIGINT: self._receive}
        if jax.process_count() > 1:  # There SIGTERM is jax's own to hear, and to tell the others.
            handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        for number, handler in handlers.items():
            try:
                self._previous[number] = signal.signal(number, handler)
            except ValueError:  # Not in the main thread, as in some notebooks: no handlers then.
                break
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any):
        self._received = True
