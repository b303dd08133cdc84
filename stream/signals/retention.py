"""Retention: of those who were first active in a week, how many are active in the weeks after it (domain: A468).

Active is who does something: looks at a page, uses something, buys, clicks or answers a message; not who is sent one,
opens one (machines do), or of whom a server reports. Counted once a profile and week, in the bucket of the cohort's
Monday.
"""

from __future__ import annotations

from typing import Any, Final

from stream.core import retention
from stream.core.activity import iso_day
from stream.core.retention import Retention
from stream.signals.base import Context, Result, Signal
from tracker.contract.durations import DAY_MS
from tracker.contract.events import MESSAGE_ACTIONS, ORDER_CANCELLED, ORDER_REFUNDED, SERVER_EVENTS, ProfileEvent
from tracker.contract.keys import cohort_field, undone_field

PASSIVE: Final = SERVER_EVENTS.union(
    (name for name, (_, action) in MESSAGE_ACTIONS.items() if action not in ("clicked", "replied")),
    (ORDER_CANCELLED, ORDER_REFUNDED),
)
"""Events that are no activity of the person's."""


class RetentionSignal(Signal[Retention]):
    name = "retention"
    state_type = Retention
    events: frozenset[str] | None = None
    settings: frozenset[str] = frozenset()

    def idle(self, state: Retention | None, event: ProfileEvent, utc_offset_ms: int) -> bool:
        if state is not None:
            k = ((event.timestamp_ms + utc_offset_ms) // DAY_MS + 3) // 7 - state.week  # week_of: asked of every event
            if k >= retention.MAX_WEEKS or (k >= 0 and state.bits >> k & 1):
                return True
        return not is_active(event)

    def fold(self, state: Retention | None, event: ProfileEvent, ctx: Context) -> Result:
        if not is_active(event):
            return Result(state=state)
        week = retention.week_of((event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS)
        after = retention.active(state, week)
        if after is state:
            return Result(state=state)
        k = week - after.week
        if after.bits >> k != 1 or (state is not None and after.week != state.week):
            return _counted(after, ctx, state)
        noon_ms = _noon_ms(after.week, ctx)  # in its order, as by far the most
        counts = [(cohort_field(k), 1, noon_ms)]
        if k and after.bits >> (k - 1) & 1:
            counts.append((cohort_field(k, kept=True), 1, noon_ms))
        return Result(state=after, counts_at=tuple(counts))

    def merge(self, one: Retention, other: Retention, now_ms: int, ctx: Context) -> Result:
        return _counted(retention.merged(one, other), ctx, one, other)

    def explain(self, state: Retention, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The Mondays of the weeks with activity; the first is the cohort."""
        weeks = [state.week + k for k in range(retention.MAX_WEEKS) if state.bits >> k & 1]
        mondays = [iso_day(retention.monday(week)) for week in weeks]
        return {"cohort": mondays[0], "active_weeks": mondays}


def is_active(event: ProfileEvent) -> bool:
    name = event.event
    if event.bot is not None:
        return False
    return event.type in ("page", "screen") if name is None else name not in PASSIVE


def _counted(after: Retention, ctx: Context, *before: Retention | None) -> Result:
    """Counts the difference."""
    old = [what for state in before if state is not None for what in retention.counted(state)]
    new = retention.counted(after)
    counts = [(cohort_field(k, kept=kept), 1, _noon_ms(week, ctx)) for week, k, kept in sorted(new.difference(old))]
    for what in sorted(new.intersection(old)):
        old.remove(what)
    counts += [(undone_field(cohort_field(k, kept=kept)), 1, _noon_ms(week, ctx)) for week, k, kept in sorted(old)]
    return Result(state=after, counts_at=tuple(counts))


def _noon_ms(week: int, ctx: Context) -> int:
    """A time on its Monday that is so whatever the offset was then."""
    return retention.monday(week) * DAY_MS + DAY_MS // 2 - ctx.utc_offset_ms
