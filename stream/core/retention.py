"""In which weeks somebody was active, counted from the first one: what a site's cohorts are made of. Pure.

A cohort is of one week, Monday to Sunday of the site's time zone. A bit a week says as much as is counted, so that a
repeat counts nothing, and a late event or a merge, which may move the first week, can take back what was counted.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

MAX_WEEKS: Final = 62
"""Of a cohort; later ones are not counted. As many bits are a JSON integer for whoever reads it."""
_MONDAY: Final = 3
"""1970-01-01 was a Thursday."""


class Retention(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `retention`."""

    week: int
    """The first week: since the one with 1970-01-01 in it."""
    bits: int = 1
    """Bit k: active in week + k."""


def week_of(day: int) -> int:
    """Of a local day since the epoch."""
    return (day + _MONDAY) // 7


def monday(week: int) -> int:
    """The first day of a week, since the epoch."""
    return week * 7 - _MONDAY


def active(state: Retention | None, week: int) -> Retention:
    """With a week more: the same state where it is known."""
    if state is None:
        return Retention(week)
    k = week - state.week
    if k < 0:
        return merged(Retention(week), state)
    return state if k >= MAX_WEEKS or state.bits >> k & 1 else Retention(state.week, state.bits | 1 << k)


def merged(one: Retention, other: Retention) -> Retention:
    week = min(one.week, other.week)
    bits = one.bits << one.week - week | other.bits << other.week - week
    return Retention(week, bits & (1 << MAX_WEEKS) - 1)


def counted(state: Retention) -> set[tuple[int, int, bool]]:
    """What is counted of it: (first week, k, whether active in week k - 1, too) for each week with activity, and with
    True once more for those that follow on the week before."""
    weeks = [k for k in range(MAX_WEEKS) if state.bits >> k & 1]
    kept = [k for k in weeks if k and state.bits >> (k - 1) & 1]
    return {(state.week, k, False) for k in weeks} | {(state.week, k, True) for k in kept}
