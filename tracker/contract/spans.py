"""Durations in counters: quarters of an octave, so that a distribution over seconds to years is some hundred fields,
and a median of it is right to 9 %. Shared by who writes and who reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Final

PER_OCTAVE: Final = 4
MAX_BUCKET: Final = 120
"""Some 30 years, and what is longer."""


def bucket(ms: int) -> int:
    """0: less than a second; b: from 2 ** ((b - 1) / 4) seconds to 2 ** (b / 4)."""
    return 0 if ms < 1000 else min(1 + int(PER_OCTAVE * log2(ms / 1000)), MAX_BUCKET)


def quantile(counts: Mapping[int, int], q: float = 0.5) -> float | None:
    """Seconds, of bucket -> n: within its bucket the values are taken to be spread evenly by their logarithm."""
    total = sum(counts.values())
    if total <= 0:
        return None
    at, below = q * total, 0
    for b in sorted(counts):
        if (n := counts[b]) > 0:
            if below + n >= at:
                return 0.0 if b == 0 else float(2 ** ((b - 1 + (at - below) / n) / PER_OCTAVE))
            below += n
    return None
