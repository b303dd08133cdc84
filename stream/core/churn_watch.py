"""Who is about to be lost: the days on which somebody bought, came or answered, and one timer at the crossing. Pure.

State: the set of the site-local days, from which x, t_x and the age follow in whatever order the events came. Age 0 =
start of the first day; t_x in whole days; the age now is continuous, so t_x <= age. The timer stands where the risk
crosses `enter` (stream/core/churn.py); each further day sets it anew. It goes on when it fires, and off only by a day
that brings the risk down to `leave`.

Parameters change (each night, perhaps). A timer that was set by older ones is solved again when it fires, and at the
latest `recheck_ms` after the last day and every `recheck_ms` from then on, so nobody has to go over all profiles.
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil, inf
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from stream.core.churn import Params, crossing, risk
from tracker.contract.durations import DAY_MS

MAX_DAYS: Final = 512


class Watched(Struct, frozen=True, omit_defaults=True):
    """The state: what all three signals keep."""

    days: tuple[int, ...] = ()
    """Site-local days since the epoch, sorted."""
    zero_ms: int = 0
    """Start of the first day."""
    more: int = 0
    """Days dropped from `days`, all after the first: the oldest of more than 512."""
    due_ms: int | None = None
    on: bool = False
    """Over the threshold."""
    crossed_ms: int = 0
    """Last crossing."""
    crossings: int = 0
    told_ms: int | None = None
    """Last crossing that was told."""

    @property
    def x(self) -> int:
        return max(len(self.days) - 1, 0) + self.more

    @property
    def t_x_days(self) -> int:
        return self.days[-1] - self.days[0] if self.days else 0

    def age_weeks(self, now_ms: int) -> float:
        return max((now_ms - self.zero_ms) / DAY_MS, self.t_x_days) / 7


class Rule(Struct, frozen=True):
    params: Params
    horizon_d: float
    enter: float
    leave: float
    gap_ms: int
    """Least time between two that are told."""
    min_x: int
    """Who has fewer repeats is not told."""
    counts_all: bool
    """They cross all the same, and are counted; else they have no timer."""
    recheck_ms: int
    """0: never."""


W = TypeVar("W", bound=Watched)


def seen(state: W, day: int, start_ms: int, now_ms: int, rule: Rule) -> W:
    """The state after something on a day that is not in it. now_ms: when it happened."""
    days, more = _with_day(state.days, state.more, day)
    return settled(state, replace(state, days=days, more=more, zero_ms=_first(state, start_ms)), now_ms, rule)


def _first(state: Watched, start_ms: int) -> int:
    return min(start_ms, state.zero_ms) if state.days else start_ms


def settled(before: W, after: W, now_ms: int, rule: Rule) -> W:
    """`after`, whose days are others than those of `before`: is it on, and when is its timer due."""
    # Something late is judged as of the last crossing: that was known to be past.
    at_ms = max(now_ms, before.crossed_ms)
    on = before.on and bool(after.days) and risk_at(after, at_ms, rule) > rule.leave
    return replace(after, on=on, due_ms=None if on else _due_ms(after, rule, None))


def fired(state: W, now_ms: int, rule: Rule) -> tuple[W, int, str | None] | None:
    """The timer is due: (the state after the crossing, when it was, why it is not told).

    None: no crossing yet, the state is `rearmed`. What by new parameters crossed between two checks crosses at the
    second.
    """
    assert state.due_ms is not None
    at_ms = crossing_ms(state, rule)
    if at_ms is None or at_ms > now_ms:
        return None
    at_ms = max(at_ms, state.due_ms)
    if state.x < rule.min_x:
        reason: str | None = "one_time_buyer"
    else:
        reason = "gap" if state.told_ms is not None and at_ms - state.told_ms < rule.gap_ms else None
    after = replace(
        state,
        due_ms=None,
        on=True,
        crossed_ms=max(at_ms, state.crossed_ms),
        crossings=state.crossings + 1,
        told_ms=at_ms if reason is None else state.told_ms,
    )
    return after, at_ms, reason


def rearmed(state: W, now_ms: int, rule: Rule) -> W:
    return replace(state, due_ms=_due_ms(state, rule, now_ms))


def merged(one: W, other: W, days: set[int]) -> W:
    """Both as one person; `days`: of both. To be `settled`, with `on` as it is here."""
    older = min(one, other, key=lambda s: (not s.days, s.zero_ms))
    sorted_days = sorted(days)
    dropped = max(0, len(sorted_days) - MAX_DAYS)
    told = [s.told_ms for s in (one, other) if s.told_ms is not None]
    return replace(
        older,
        days=(*sorted_days[:1], *sorted_days[1 + dropped :]),
        more=one.more + other.more + dropped,
        due_ms=None,
        on=one.on or other.on,
        crossed_ms=max(one.crossed_ms, other.crossed_ms),
        crossings=max(one.crossings, other.crossings),
        told_ms=max(told, default=None),
    )


def risk_at(state: Watched, now_ms: int, rule: Rule) -> float:
    return risk(rule.params, state.x, state.t_x_days / 7, state.age_weeks(now_ms), rule.horizon_d / 7)


def crossing_ms(state: Watched, rule: Rule) -> int | None:
    """When the risk reaches `enter` without a further day; not before the last one."""
    if not state.days or (state.x < rule.min_x and not rule.counts_all):
        return None
    weeks = crossing(rule.params, state.x, state.t_x_days / 7, rule.horizon_d / 7, rule.enter)
    return None if weeks == inf else state.zero_ms + ceil(weeks * 7 * DAY_MS)


def _due_ms(state: Watched, rule: Rule, now_ms: int | None) -> int | None:
    """The crossing, or the next check before it; checks stand at the last day + n recheck_ms."""
    at_ms = crossing_ms(state, rule)
    if not rule.recheck_ms or not state.days or (state.x < rule.min_x and not rule.counts_all):
        return at_ms
    last_ms = state.zero_ms + state.t_x_days * DAY_MS
    n = 1 if now_ms is None else max(1, (now_ms - last_ms) // rule.recheck_ms + 1)
    check_ms = last_ms + n * rule.recheck_ms
    return check_ms if at_ms is None or at_ms > check_ms else at_ms


def _with_day(days: tuple[int, ...], more: int, day: int) -> tuple[tuple[int, ...], int]:
    """The days with one more; beyond 512 the second oldest is only counted (the first gives the age)."""
    at = bisect_left(days, day)
    if more and 0 < at < 2:
        return days, more  # Among the dropped ones, or one of them again: not told apart, so not counted.
    days = (*days[:at], day, *days[at:])
    if len(days) > MAX_DAYS:
        days, more = (days[0], *days[2:]), more + 1
    return days, more
