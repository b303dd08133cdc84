"""Buckets and windows: which bucket a moment is in, and which buckets make a rolling window. Shared by who writes
(stream/fold.py) and who reads (tracker/counters.py), so that both mean the same.

    tier  length    a bucket is named by
    m     a minute  its start, epoch seconds
    h     an hour   its start, epoch seconds; hours begin with the hours of the site's time zone, so that a day is whole
                    hours also where the offset is not (India: +5:30)
    d     a day     the site's local date, as the epoch seconds of that date's midnight in UTC: one bucket a date,
                    also on days of 23 or 25 hours

A rolling window of at most a day is minutes at its two ends and whole hours between them: it holds up to a minute more
than its name says. A longer one is the hours from the one that it begins in to the next local midnight, whole local
days, and today: up to an hour more. Neither ever holds less.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from tracker.contract.durations import DAY_S, HOUR_S, MINUTE_S

QUARTER_S: Final = 900
"""Offsets of time zones change at multiples of it only."""
MAX_OFFSETS: Final = 50_000

WINDOWS: Final[dict[str, int]] = {
    "1m": 60, "5m": 300, "1h": HOUR_S, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "90d": 90 * DAY_S,
}  # fmt: skip
"""Rolling window -> its length, s."""
LONGEST_S: Final = max(WINDOWS.values())

Bucket = tuple[str, int]
"""(tier, name of the bucket)."""


class Zone:
    """A time zone, whose offsets are looked up once a quarter of an hour."""

    def __init__(self, name: str) -> None:
        self._zone = ZoneInfo(name)
        self._offsets: dict[int, int] = {}

    def offset_s(self, second: int) -> int:
        """Local time minus UTC at that time, s."""
        quarter = second // QUARTER_S
        offset = self._offsets.get(quarter)
        if offset is None:
            if len(self._offsets) >= MAX_OFFSETS:
                self._offsets.clear()
            delta = datetime.fromtimestamp(second, UTC).astimezone(self._zone).utcoffset()
            offset = self._offsets[quarter] = int(delta.total_seconds()) if delta else 0
        return offset

    def hour(self, second: int) -> int:
        return second - (second + self.offset_s(second)) % HOUR_S

    def day(self, second: int) -> int:
        return (second + self.offset_s(second)) // DAY_S * DAY_S

    def of_local(self, local_s: int, after_s: int | None = None) -> int:
        """When its clocks show that time first (after `after_s`), or, where they skip it, the first time behind it.
        `local_s`: as if the clocks showed UTC."""
        at = local_s - max(self.offset_s(local_s - DAY_S), self.offset_s(local_s + DAY_S))
        while at + self.offset_s(at) < local_s or (after_s is not None and at <= after_s):
            at += QUARTER_S
        return at

    def date_of(self, ms: int) -> int:
        """The local date, days since the epoch."""
        return self.day(ms // 1000) // DAY_S

    def begins_ms(self, date: int) -> int:
        """The start of a local date, ms."""
        return self.of_local(date * DAY_S) * 1000

    def buckets(self, second: int) -> tuple[int, int, int]:
        """The names of its minute, hour and day."""
        offset = self.offset_s(second)
        local = second + offset
        return second - second % MINUTE_S, second - local % HOUR_S, local // DAY_S * DAY_S

    def after_hour(self, second: int) -> int:
        """The end of its hour, which is shorter where the offset changes within it."""
        hour, at = self.hour(second), second - second % QUARTER_S + QUARTER_S
        while self.hour(at) == hour:
            at += QUARTER_S
        return at

    def after_day(self, second: int) -> int:
        """The end of its local date."""
        day = self.day(second)
        at = day + DAY_S - self.offset_s(second)  # the next midnight, unless the offset changes before it
        at = max(at - at % QUARTER_S - 8 * QUARTER_S, second - second % QUARTER_S + QUARTER_S)
        while self.day(at) == day:
            at += QUARTER_S
        return at


def start_of(now_s: int, window_s: int, zone: Zone) -> int:
    """Where the buckets of a rolling window begin."""
    start = (now_s - window_s) // MINUTE_S * MINUTE_S
    return zone.hour(start) if window_s > DAY_S else start


def parts(now_s: int, window_s: int, zone: Zone) -> list[Bucket]:
    """The buckets of the rolling window that ends now, oldest first. They follow each other without a gap; where there
    are days, the last is today's."""
    at, end = start_of(now_s, window_s, zone), now_s // MINUTE_S * MINUTE_S + MINUTE_S
    found: list[Bucket] = []
    whole_days = window_s > DAY_S
    while at < end:
        if whole_days and at == zone.after_day(at - 1):
            found.append(("d", zone.day(at)))
            at = zone.after_day(at)
        elif whole_days or (at == zone.after_hour(at - 1) and zone.after_hour(at) <= end):
            found.append(("h", zone.hour(at)))
            at = zone.after_hour(at)
        else:
            found.append(("m", at))
            at += MINUTE_S
    return found


def days(now_s: int, window_s: int, zone: Zone) -> list[int]:
    """The local dates that a rolling window touches, oldest first."""
    at, found = now_s - window_s, []
    while at <= now_s:
        found.append(zone.day(at))
        at = zone.after_day(at)
    return found
