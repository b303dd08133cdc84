"""What other signals need to know of what a person did: counts of the events that a site's segments and rules ask for,
sessions, active days. It tells nothing itself, and of a site that asks for nothing it keeps nothing: to look at every
event costs. `activity = true` of a site asks for sessions and active days of everybody.

A person is here with a page, a screen, or a track event of a page that is no report on a message or from a server.
"""

from __future__ import annotations

from typing import Any, Final

from stream.core import activity as core
from stream.core.activity import Activity
from stream.signals.base import Context, Result, Signal
from tracker.contract.durations import DAY_MS, HOUR_MS
from tracker.contract.events import MESSAGE_ACTIONS, SERVER_EVENTS, VISIT_CHANNELS, ProfileEvent, event_label
from tracker.contract.predicates import FIELDS, Condition, counted, leaves
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import rfc3339

_NO_VISIT: Final = frozenset(MESSAGE_ACTIONS) | SERVER_EVENTS


class ActivitySignal(Signal[Activity]):
    name = "activity"
    state_type = Activity
    events: frozenset[str] | None = None
    settings: frozenset[str] = frozenset(("sites",))

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._counted: dict[str, dict[str, int]] = {}

    def counted(self, settings: Settings, site: str) -> dict[str, int]:
        """Name of an event that is asked for -> of how many days back."""
        if settings is not self._settings:
            self._counted = {name: counted(_conditions(one)) for name, one in settings.sites.items()}
            self._settings = settings
        return self._counted.get(site, {})

    def asks(self, site: Site | None) -> frozenset[str] | None:
        """The events that are counted; all, where a condition is about visits."""
        if site is None:
            return frozenset()
        conditions = _conditions(site)
        about_visits = any(
            leaf.field is not None and leaf.event is None and FIELDS[leaf.field].reads == self.name
            for condition in conditions
            for leaf in leaves(condition)
        )
        if site.activity or about_visits or any(rule.once == "session" for rule in site.rules):
            return None
        return frozenset(counted(conditions))

    def fold(self, state: Activity | None, event: ProfileEvent, ctx: Context) -> Result:
        ms = event.timestamp_ms
        after = Activity(min(ms, ctx.first_seen_ms or ms)) if state is None else state
        if ms < after.first_ms:
            after = core.earlier(after, ms)
        day = (ms + ctx.utc_offset_ms) // DAY_MS
        if event.bot is None and is_visit(event):
            after = core.visit(after, ms, day, ctx.zone)
        label = event_label(event)
        keep_days = self.counted(ctx.settings, ctx.site).get(label)
        if keep_days is not None:
            after = core.count(after, label, ms, day, keep_days)
        return Result(state=after)

    def merge(self, one: Activity, other: Activity, now_ms: int, ctx: Context) -> Result:
        return Result(state=core.merge(one, other, self.counted(ctx.settings, ctx.site), ctx.zone))

    def explain(self, state: Activity, now_ms: int, ctx: Context) -> dict[str, Any]:
        """Sessions of 7 and 30 local days, today among them, and the mean time from the start of one to the next's."""
        today, mean_gap_ms = (now_ms + ctx.utc_offset_ms) // DAY_MS, state.mean_gap_ms
        return {
            "first": rfc3339(state.first_ms),
            "last_visit": rfc3339(state.last_visit_ms) if state.last_visit_ms is not None else None,
            "sessions": state.session_count,
            "sessions_7d": state.sessions_since(today - 6, ctx.zone),
            "sessions_30d": state.sessions_since(today - 29, ctx.zone),
            "mean_gap_h": mean_gap_ms / HOUR_MS if mean_gap_ms is not None else None,
            "active_days": [core.iso_day(day) for day in state.active_days()],
            "events": {
                name: {
                    "count": tally.n,
                    "last": rfc3339(tally.last_ms),
                    "days": {core.iso_day(day): n for day, n in tally.days},
                }
                for name, tally in sorted(state.tallies.items())
            },
        }


def _conditions(site: Site) -> list[Condition]:
    return [c for s in site.segments for c in s.conditions] + [r.when for r in site.rules if r.when is not None]


def is_visit(event: ProfileEvent) -> bool:
    name = event.event
    if name is None:
        return event.type in ("page", "screen")
    return event.channel in VISIT_CHANNELS and name not in _NO_VISIT
