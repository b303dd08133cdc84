"""How long the Kafka producer collects before a batch leaves: longer while there is a flow that leaves batches thin."""

from __future__ import annotations

from typing import Final

THIN: Final = 4
"""Records a batch, on average over a flush, below which the linger grows; from twice as many on it shrinks."""
FLOW: Final = 8
"""A flush of fewer records than so many is no flow: nothing would be gained by waiting for more."""
GROWTH: Final = 1.5


class Linger:
    """How long the first record of a batch waits for others, s."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s = self._now_s = least_s
        self._most_s = max(least_s, most_s)
        self._flushed_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """For the first record after a flush. After a pause it is the least: nobody is there to share a batch with."""
        if now_s - self._flushed_s > self._most_s:
            self._now_s = self._least_s
        return self._now_s

    def flushed(self, records: int, batches: int, now_s: float) -> None:
        """Fit the linger to what a flush has sent."""
        self._flushed_s = now_s
        if records < FLOW:
            self._now_s = self._least_s
        elif records < THIN * batches:
            self._now_s = min(max(self._now_s, 0.001) * GROWTH, self._most_s)  # at least a bit: it may start at zero
        elif records >= 2 * THIN * batches:
            self._now_s = max(self._now_s / GROWTH, self._least_s)
