"""How often a topic is looked at: a chunk costs the same whatever is in it, so under load waiting for more pays.

Below BUSY_RATE records a second there is no wait. Above it the wait is LINGER_S, and grows, as long as this process is
short of CPU and chunks are small, to MOST_LINGER_S: otherwise chunks would grow by a backlog alone, which is latency of
seconds. Pure: the times are arguments.
"""

from __future__ import annotations

from typing import Final

BUSY_RATE: Final = 300.0
"""Records a second from which on fetches are paced."""
LINGER_S: Final = 0.08
MOST_LINGER_S: Final = 0.25
FULL_LINGER_S: Final = 0.25
"""With a backlog, at the topic that is read first, so that its chunks grow."""
PERIOD_S: Final = 0.5
"""How often rate and CPU are looked at."""
SHORT_SHARE: Final = 0.5
"""Of a core, by this process: from here on it saves. Python's threads share one core, and others want some, too."""
CALM_SHARE: Final = 0.3
SMALL_CHUNK: Final = 100
"""Records; a chunk of more costs by its records."""
STEP: Final = 1.25


class Pace:
    """When to look next at the topic that is read first, and at the others."""

    def __init__(self) -> None:
        self.ahead_at_s = 0.0
        self.rest_at_s = 0.0
        self.linger_s = LINGER_S
        self._busy = False
        self._records = self._chunks = 0
        self._since_s = self._cpu_s = 0.0

    def fetched(self, records: int, chunks: int, most: int, now_s: float, cpu_s: float) -> None:
        """A look brought so many records in so many chunks; it would have brought `most` records.

        now_s: a monotonic clock. cpu_s: the process's CPU clock.
        """
        self._records += records
        self._chunks += chunks
        past_s = now_s - self._since_s
        if past_s >= PERIOD_S:
            self._busy = self._records / past_s > BUSY_RATE
            share = (cpu_s - self._cpu_s) / past_s
            if share > SHORT_SHARE and self._records < SMALL_CHUNK * self._chunks:
                self.linger_s = min(self.linger_s * STEP, MOST_LINGER_S)
            elif share < CALM_SHARE:
                self.linger_s = max(self.linger_s / STEP, LINGER_S)
            self._records = self._chunks = 0
            self._since_s, self._cpu_s = now_s, cpu_s
        if self._busy and records:
            full = records >= most // 2
            self.ahead_at_s = now_s + (FULL_LINGER_S if full else self.linger_s)
            self.rest_at_s = now_s + (0.0 if full else self.linger_s)
