"""SIGTERM and Ctrl-C as a wish to stop, granted between two steps."""

import signal
from typing import Any


class StopSignal:
    """Within it the signals only set `requested`, for the loop to save and leave."""

    def __init__(self):
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._request)
            except ValueError:  # Not in the main thread, as in some notebooks: no handlers then.
                break
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any):
        self.requested = True
