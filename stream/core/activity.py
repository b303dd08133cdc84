"""What a person did, in numbers that come out the same in whatever order the events come: counts of events, sessions,
days with a session.

Sessions are intervals: an event joins those that it is at most 30 minutes away from (domain: A004), also the two on
both sides of it. Active days are bits of one integer. All of it is bounded: what falls out at the old end is only
counted.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import date
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.durations import MINUTE_MS
from tracker.contract.windows import Zone

EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
SESSION_GAP_MS: Final = 30 * MINUTE_MS
MAX_SESSIONS: Final = 12
"""Intervals kept; earlier ones are counted."""
PAST_D: Final = 30
"""Days of which earlier ones are counted by their day."""
DAY_BITS: Final = 62
"""Days that are remembered as active or not; a JSON integer holds them."""


class Tally(Struct, frozen=True, omit_defaults=True, array_like=True):
    """Events of one name."""

    n: int
    last_ms: int
    days: tuple[tuple[int, int], ...] = ()
    """(local day, n) of the days that somebody asks for, sorted."""


class Activity(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `activity`."""

    first_ms: int
    """Of any event."""
    tallies: dict[str, Tally] = {}
    """Name of an event that a condition asks for -> its events."""
    sessions: tuple[tuple[int, int], ...] = ()
    """(first event, last event), ms, sorted: the latest."""
    more: int = 0
    """Sessions before those."""
    day: int = 0
    """The latest active local day, since the epoch."""
    bits: int = 0
    """Bit k: day - k was active."""
    past: tuple[tuple[int, int], ...] = ()
    """(local day, sessions that began on it) of those that are only counted, of the last 30 days with one."""
    began_ms: int | None = None
    """When the first of these began."""

    @property
    def session_count(self) -> int:
        return self.more + len(self.sessions)

    def sessions_since(self, day: int, zone: Zone) -> int:
        """How many began on this local day or later, of the last 30."""
        latest = sum(zone.date_of(first) >= day for first, _ in self.sessions)
        return latest + sum(n for began, n in self.past if began >= day)

    @property
    def mean_gap_ms(self) -> float | None:
        """(start of the last session - of the first) / (sessions - 1); None with fewer than two (domain: A106)."""
        if self.session_count < 2 or not self.sessions:
            return None
        began_ms = self.sessions[0][0] if self.began_ms is None else self.began_ms
        return (self.sessions[-1][0] - began_ms) / (self.session_count - 1)

    @property
    def last_visit_ms(self) -> int | None:
        return self.sessions[-1][1] if self.sessions else None

    def active_days(self) -> tuple[int, ...]:
        """Those remembered, sorted."""
        return days_of(self.day, self.bits)


def iso_day(day: int) -> str:
    """A local day since the epoch -> '2026-11-02'."""
    return date.fromordinal(EPOCH_DAY + day).isoformat()


def days_of(day: int, bits: int) -> tuple[int, ...]:
    return tuple(day - k for k in range(DAY_BITS - 1, -1, -1) if bits >> k & 1)


def earlier(state: Activity, ms: int) -> Activity:
    return replace(state, first_ms=ms)


def visit(state: Activity, ms: int, day: int, zone: Zone) -> Activity:
    """The person was here."""
    sessions, more = joined(state.sessions, state.more, ms, ms)
    latest, bits = with_days(state.day, state.bits, day, 1)
    if more != state.more:
        gone = [s for s in (*state.sessions, (ms, ms)) if s[1] < sessions[0][0]]
        past, began_ms = _passed(state.past, state.began_ms, gone, zone)
        return Activity(state.first_ms, state.tallies, sessions, more, latest, bits, past, began_ms)
    if sessions is state.sessions and bits == state.bits and latest == state.day:
        return state
    return Activity(state.first_ms, state.tallies, sessions, more, latest, bits, state.past, state.began_ms)


def _passed(
    past: tuple[tuple[int, int], ...], began_ms: int | None, gone: list[tuple[int, int]], zone: Zone
) -> tuple[tuple[tuple[int, int], ...], int | None]:
    """(past, began_ms) with sessions that are only counted from now on."""
    starts = [first for first, _ in gone]
    for ms in starts:
        past = _counted(past, ((zone.date_of(ms), 1),), PAST_D)
    return past, min(starts if began_ms is None else (*starts, began_ms), default=None)


def count(state: Activity, name: str, ms: int, day: int, keep_days: int) -> Activity:
    """One event of a name that is asked for; `keep_days`: of so many days back."""
    old = state.tallies.get(name)
    days = _counted(old.days if old is not None else (), ((day, 1),), keep_days)
    n, last_ms = (old.n, old.last_ms) if old is not None else (0, ms)
    return replace(state, tallies={**state.tallies, name: Tally(n + 1, max(last_ms, ms), days)})


def merge(one: Activity, other: Activity, keep_days: dict[str, int], zone: Zone) -> Activity:
    gone, sessions = united(one.sessions, other.sessions)
    past = _counted(one.past, other.past, PAST_D) if other.past else one.past
    began = [s.began_ms for s in (one, other) if s.began_ms is not None]
    past, began_ms = _passed(past, min(began, default=None), gone, zone)
    day, bits = with_days(one.day, one.bits, other.day, other.bits)
    tallies: dict[str, Tally] = {}
    for name in sorted({*one.tallies, *other.tallies}):
        a, b = one.tallies.get(name), other.tallies.get(name)
        if a is None or b is None:
            tallies[name] = a or b  # type: ignore[assignment]  # one of them is there
        else:
            days = _counted(a.days, b.days, keep_days.get(name, 0))
            tallies[name] = Tally(a.n + b.n, max(a.last_ms, b.last_ms), days)
    more = one.more + other.more + len(gone)
    return Activity(min(one.first_ms, other.first_ms), tallies, sessions, more, day, bits, past, began_ms)


def united(
    one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]
) -> tuple[list[tuple[int, int]], tuple[tuple[int, int], ...]]:
    """Sessions of two as one's, those that are near to each other as one: those that are too many, the latest ones."""
    out: list[tuple[int, int]] = []
    for first, last in sorted((*one, *other)):
        if out and first <= out[-1][1] + SESSION_GAP_MS:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out[: max(0, len(out) - MAX_SESSIONS)], tuple(out[-MAX_SESSIONS:])


def joined(
    sessions: tuple[tuple[int, int], ...], more: int, first: int, last: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """The sessions with one more interval, joined with those that it is near to."""
    if sessions and sessions[-1][0] <= first and last <= sessions[-1][1] + SESSION_GAP_MS:  # by far the most common
        ends = sessions[-1]
        return (sessions, more) if last <= ends[1] else ((*sessions[:-1], (ends[0], last)), more)
    if more and last < sessions[0][0] - SESSION_GAP_MS:
        return sessions, more  # Among those that are only counted; not told apart from them.
    low = bisect_left(sessions, first - SESSION_GAP_MS, key=lambda s: s[1])
    high = low
    while high < len(sessions) and sessions[high][0] <= last + SESSION_GAP_MS:
        first, last = min(first, sessions[high][0]), max(last, sessions[high][1])
        high += 1
    joined = (*sessions[:low], (first, last), *sessions[high:])
    dropped = max(0, len(joined) - MAX_SESSIONS)
    return joined[dropped:], more + dropped


def with_days(day: int, bits: int, other_day: int, other_bits: int) -> tuple[int, int]:
    """(the latest day, bits) of both."""
    if other_bits == 1 and other_day == day and bits & 1:
        return day, bits
    if not bits or not other_bits:
        return (other_day, other_bits) if other_bits else (day, bits)
    latest = max(day, other_day)
    mask = (1 << DAY_BITS) - 1
    return latest, (bits << min(latest - day, DAY_BITS) | other_bits << min(latest - other_day, DAY_BITS)) & mask


def _counted(
    days: tuple[tuple[int, int], ...], more: tuple[tuple[int, int], ...], keep_days: int
) -> tuple[tuple[int, int], ...]:
    """Both, of the last `keep_days` days before the latest of them."""
    if not keep_days:
        return ()
    if len(more) == 1 and days and days[-1][0] == more[0][0]:  # by far the most common
        return (*days[:-1], (days[-1][0], days[-1][1] + more[0][1]))
    sums = dict(days)
    for day, n in more:
        sums[day] = sums.get(day, 0) + n
    oldest = max(sums) - keep_days
    return tuple(sorted((day, n) for day, n in sums.items() if day > oldest))
