"""Does somebody do less than before? A share of recent days against earlier ones, and one timer at the fall. Pure.

As of a local day D, `recent` is made of the complete days [D - recent_d, D), `before` of the `before_d` days ahead of
these. It has fallen when recent / before < `enter`, with at least `least` in `before`; it is over when something brings
the ratio to `leave`. Nothing `before`: no ratio, and nothing that could fall.

While nothing happens the ratio can fall only at the start of a day: of the day after the last one with something in it,
or where a day leaves `recent` (or, of a rate, `before`). So these few days are looked at, and the first is the timer.
What is counted on the latest day may still grow without the timer being set anew: until that day leaves `recent` more
of it only puts a fall off, and as of then nothing is `recent`. When the timer fires the ratio is looked at again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from tracker.contract.windows import Zone


class Level(Struct, frozen=True):
    """How it stands as of a day. Both in one unit, so that `recent / before` is the ratio."""

    recent: float
    before: float
    n: int
    """How much `before` is made of."""

    @property
    def ratio(self) -> float | None:
        return self.recent / self.before if self.before > 0 else None


class Rules(Struct, frozen=True):
    enter: float
    """0: nothing is watched."""
    leave: float
    least: int
    gap_ms: int


class Fall(Struct, frozen=True, omit_defaults=True):
    on: bool = False
    due_ms: int | None = None
    times: int = 0
    fell_ms: int = 0
    """When it fell last."""
    told_ms: int | None = None
    """The last fall that was told."""


NO_FALL: Final = Fall()


def has_fallen(level: Level | None, rules: Rules) -> bool:
    if level is None or level.n < rules.least:
        return False
    ratio = level.ratio
    return ratio is not None and ratio < rules.enter


class Series(Struct, frozen=True):
    """What a ratio is made of, as it is known now."""

    days: Sequence[int]
    """Local days with something in them, sorted; at least one."""
    recent_d: int
    edges: tuple[int, ...]
    """So many days after one with something in it the ratio may fall, for it has left a part."""
    level: Callable[[int], Level | None]
    """As of a day; None: there is no telling."""
    zone: Zone


def due_day(series: Series, after: int, rules: Rules) -> int | None:
    """The first day after `after`, and after the last one with something in it, as of which it has fallen if nothing
    more comes. None: never. From the day on which the last one left, nothing is `recent` any more, so that is the last
    one to look at."""
    if not rules.enter:
        return None
    latest = series.days[-1]
    least, last = max(after, latest), latest + series.recent_d + 1
    leaves: set[int] = set()
    for edge in series.edges:
        first = bisect_right(series.days, least - edge)
        leaves.update(day + edge for day in series.days[first : bisect_right(series.days, last - edge)])
    for day in sorted({least + 1} | leaves):
        if has_fallen(series.level(day), rules):
            return day
    return None


def settled(fall: Fall, series: Series, rules: Rules) -> Fall:
    """After something came: it is judged as of the day after the latest, but not of a day before it fell."""
    as_of = series.days[-1] + 1
    if fall.fell_ms:
        as_of = max(as_of, series.zone.date_of(fall.fell_ms))
    on = fall.on
    if on:
        level = series.level(as_of)
        ratio = level.ratio if level is not None and level.n >= rules.least else None
        on = ratio is not None and ratio < rules.leave
    day = None if on else due_day(series, as_of - 1, rules)
    due_ms = None if day is None else series.zone.begins_ms(day)
    if on == fall.on and due_ms == fall.due_ms:
        return fall
    return Fall(on, due_ms, fall.times, fall.fell_ms, fall.told_ms)


class Crossing(Struct, frozen=True):
    at_ms: int
    level: Level
    reason: str | None
    """Why it is not told."""


def fired(fall: Fall, now_ms: int, series: Series | None, rules: Rules) -> tuple[Fall, Crossing | None]:
    """The timer is due: the fall after it, and whether it has fallen."""
    due_ms = fall.due_ms
    while due_ms is not None and due_ms <= now_ms:
        if series is None:
            due_ms = None
            break
        day = series.zone.date_of(due_ms)
        level = series.level(day)
        if level is not None and has_fallen(level, rules):
            reason = "gap" if fall.told_ms is not None and due_ms - fall.told_ms < rules.gap_ms else None
            told_ms = due_ms if reason is None else fall.told_ms
            return Fall(True, None, fall.times + 1, due_ms, told_ms), Crossing(due_ms, level, reason)
        later = due_day(series, day, rules)
        due_ms = None if later is None else series.zone.begins_ms(later)
    return Fall(fall.on, due_ms, fall.times, fall.fell_ms, fall.told_ms), None


def merged(one: Fall, other: Fall) -> Fall:
    """Of two persons' who are one; to be `settled`."""
    told = max((f.told_ms for f in (one, other) if f.told_ms is not None), default=None)
    return Fall(one.on or other.on, None, max(one.times, other.times), max(one.fell_ms, other.fell_ms), told)
