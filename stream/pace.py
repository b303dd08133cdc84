"""How long a fetch lets the broker gather: a chunk costs the same whatever is in it, so under load waiting pays.

Below BUSY_RATE records a second a fetch brings the first record at once. Above it the broker answers after the setting
gather_ms, which grows, as long as this process is short of CPU and chunks are small, to MOST_LINGER_S: otherwise chunks
would grow by a backlog alone, which is latency of seconds. It is the broker that waits, not we: while records lie in
aiokafka's buffer no more of their partition are asked for, and what came after them would wait twice. With a backlog it
is we that wait all the same: a broker that gathers answers for none of its partitions meanwhile. Pure: the times are
arguments.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BUSY_RATE: Final = 300.0
"""Records a second from which on fetches are paced."""
MOST_LINGER_S: Final = 0.25
"""Where gather_ms is more, it is that."""
FULL_LINGER_S: Final = 0.25
"""With a backlog, at the topic that is read first, so that its chunks grow."""
BACKLOG_S: Final = 1.0
"""How long after its last sign a backlog counts as one."""
ENOUGH_BYTES: Final = 4 << 20
"""What a broker has no need to wait for more of."""
PERIOD_S: Final = 0.5
"""How often rate and CPU are looked at."""
SHORT_SHARE: Final = 0.7
"""Of a core, by this process: from here on it saves. Python's threads share one core, and others want some, too."""
CALM_SHARE: Final = 0.5
SMALL_CHUNK: Final = 100
"""Records; a chunk of more costs by its records."""
STEP: Final = 1.25


class Look(NamedTuple):
    """What a look at a topic brought."""

    records: int
    chunks: int
    full: bool
    """At least half of what a look takes: there is more."""


class Pace:
    """How the next fetch waits, and when to look next at the topic that is read first, and at the others."""

    def __init__(self, calm_wait_s: float, gather_s: float) -> None:
        """calm_wait_s: how long a fetch waits for a first record. gather_s: how long it lets the broker gather."""
        self.ahead_at_s = self.rest_at_s = 0.0
        self.linger_s = self._least_s = gather_s
        self._most_s = max(gather_s, MOST_LINGER_S)
        self._calm_wait_s = calm_wait_s
        self._busy = self._gathers = False
        self._backlog_until_s = 0.0
        self._records = self._chunks = 0
        self._since_s = self._cpu_s = 0.0

    @property
    def min_bytes(self) -> int:
        """A fetch is answered when there is so much."""
        return ENOUGH_BYTES if self._gathers else 1

    @property
    def wait_ms(self) -> int:
        """Or after so long."""
        return round((self.linger_s if self._gathers else self._calm_wait_s) * 1000)

    def fetched(self, ahead: Look | None, rest: Look | None, now_s: float, cpu_s: float) -> None:
        """What a look at the topic that is read first brought, and one at the others; None = not looked at.

        now_s: a monotonic clock. cpu_s: the process's CPU clock.
        """
        looks = [look for look in (ahead, rest) if look is not None]
        records = sum(look.records for look in looks)
        self._records += records
        self._chunks += sum(look.chunks for look in looks)
        past_s = now_s - self._since_s
        if past_s >= PERIOD_S:
            self._busy = self._records / past_s > BUSY_RATE
            share = (cpu_s - self._cpu_s) / past_s
            if share > SHORT_SHARE and self._records < SMALL_CHUNK * self._chunks:
                self.linger_s = min(self.linger_s * STEP, self._most_s)
            elif share < CALM_SHARE:
                self.linger_s = max(self.linger_s / STEP, self._least_s)
            self._records = self._chunks = 0
            self._since_s, self._cpu_s = now_s, cpu_s
        full = any(look.full for look in looks)
        if self._busy and full:
            self._backlog_until_s = now_s + BACKLOG_S
            if ahead is not None:  # Until it has been read to its end; one that was not looked at is due as before.
                self.ahead_at_s = now_s if ahead.full else now_s + FULL_LINGER_S
            self.rest_at_s = now_s
        self._gathers = self._busy and now_s >= self._backlog_until_s
        if self._busy and records and not full:
            self.ahead_at_s = self.rest_at_s = now_s if self._gathers else now_s + self.linger_s
