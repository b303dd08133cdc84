"""How long somebody uses what a site offers: active time by local day, for five weeks. Pure.

As of a day, usage is the active time of the 7 days before it, against a mean week of the 28 days before these
(stream/core/falling.py has the rest). Times add up, so any order of events gives the same.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from msgspec import Struct

from stream.core import falling
from stream.core.falling import NO_FALL, Fall, Level, Rules, Series
from tracker.contract.durations import DAY_MS
from tracker.contract.windows import Zone

RECENT_D: Final = 7
BEFORE_D: Final = 28
WEEKS: Final = BEFORE_D / RECENT_D
KEPT_D: Final = RECENT_D + BEFORE_D
MAX_MS: Final = DAY_MS
"""Of a day."""


class Usage(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `usage`."""

    day: int
    """The latest local day, since the epoch."""
    ms: int
    """Active time of that day."""
    days: tuple[int, ...] = ()
    """Those before it, sorted."""
    times: tuple[int, ...] = ()
    """Active time of each, ms."""
    fall: Fall = NO_FALL
    hour: int = 0
    """The latest hour with some of it, since the epoch."""


def used(state: Usage | None, day: int, ms: int, hour: int, zone: Zone, rules: Rules) -> Usage:
    """With some active time more (`ms` > 0)."""
    if state is None:
        return Usage(day, ms, hour=hour)
    if day == state.day and not state.fall.on:  # by far the most; a timer that stands may stay
        return Usage(day, min(state.ms + ms, MAX_MS), state.days, state.times, state.fall, max(hour, state.hour))
    if day <= state.day - KEPT_D:
        return state
    return _settled(_sum(state, Usage(day, ms, hour=hour), state.fall), zone, rules)


def merged(one: Usage, other: Usage, zone: Zone, rules: Rules) -> Usage:
    """Two persons' as one's."""
    return _settled(_sum(one, other, falling.merged(one.fall, other.fall)), zone, rules)


def series(state: Usage, zone: Zone) -> Series:
    days, times = (*state.days, state.day), (*state.times, state.ms)

    def level(day: int) -> Level:
        first, middle, last = (bisect_left(days, day - d) for d in (KEPT_D, RECENT_D, 0))
        return Level(sum(times[middle:last]), sum(times[first:middle]) / WEEKS, middle - first)

    return Series(days, RECENT_D, (RECENT_D + 1,), level, zone)


def _sum(one: Usage, other: Usage, fall: Fall) -> Usage:
    sums: dict[int, int] = {}
    for state in (one, other):
        for day, ms in zip((*state.days, state.day), (*state.times, state.ms), strict=True):
            sums[day] = min(sums.get(day, 0) + ms, MAX_MS)
    latest = max(sums)
    days = sorted(day for day in sums if latest - KEPT_D < day < latest)
    hour = max(one.hour, other.hour)
    return Usage(latest, sums[latest], tuple(days), tuple(sums[day] for day in days), fall, hour)


def _settled(state: Usage, zone: Zone, rules: Rules) -> Usage:
    fall = falling.settled(state.fall, series(state, zone), rules)
    return Usage(state.day, state.ms, state.days, state.times, fall, state.hour)
