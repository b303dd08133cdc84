"""The messageIds of the last hours, as 64-bit hashes: 8 bytes each in sorted arrays, where a Python set takes 65.

New hashes go to a small set; when it is full it becomes a sorted run, and runs of similar size are merged, so that a
look-up asks few runs and an insertion costs O(log n) moves. Hours are dropped as a whole.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

SPAN_H: Final = 6
"""Hours that share runs: whole spans are forgotten once all of it is out of the window."""
FRESH: Final = 16_384


class _Span:
    __slots__ = ("fresh", "runs")

    def __init__(self) -> None:
        self.fresh: set[int] = set()
        self.runs: list[array[int]] = []

    def add(self, hashes: Iterable[int]) -> None:
        self.fresh.update(hashes)
        if len(self.fresh) >= FRESH:
            self.absorb(array("Q", sorted(self.fresh)))
            self.fresh = set()

    def absorb(self, run: array[int]) -> None:
        while self.runs and len(self.runs[-1]) <= 2 * len(run):
            run = array("Q", sorted(self.runs.pop() + run))  # Timsort merges two sorted runs in linear time.
        self.runs.append(run)

    def among(self, hashes: set[int]) -> set[int]:
        found = self.fresh & hashes
        for run in self.runs:
            n = len(run)
            found.update([h for h in hashes if (i := bisect_left(run, h)) < n and run[i] == h])
        return found


class Seen:
    """The dedupe window of one partition."""

    def __init__(self, window_h: int) -> None:
        self.window_h = window_h
        self._spans: dict[int, _Span] = {}

    def load(self, hour: int, hashes: bytes) -> None:
        """Hashes as Redis keeps them: 8 bytes each, big-endian."""
        run = array("Q", hashes)
        if sys.byteorder == "little":
            run.byteswap()
        if run:
            self._span(hour).absorb(array("Q", sorted(run)))

    def among(self, hashes: Iterable[int]) -> set[int]:
        """Those of the hashes that are in the window. A chunk's at once: half the price of one by one."""
        wanted = set(hashes)
        return set[int]().union(*(span.among(wanted) for span in self._spans.values()))

    def add(self, hour: int, *hashes: int) -> None:
        """`hour` = received_at_ms // HOUR_MS."""
        self._span(hour).add(hashes)

    def _span(self, hour: int) -> _Span:
        key = hour // SPAN_H
        span = self._spans.get(key)
        if span is None:
            oldest = (hour - self.window_h) // SPAN_H
            for old in [k for k in self._spans if k < oldest]:
                del self._spans[old]
            span = self._spans[key] = _Span()
        return span
