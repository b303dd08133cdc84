"""Active time of a person, day by day: `usage_falling` when a week has less than half of what a week had before.

Page Engaged says how long (`engaged_ms`, since the last one, of which 30 s count at most); a screen or a feature that
is used counts as so much.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from stream.core import falling, usage
from stream.core.falling import Rules
from stream.core.usage import Usage
from stream.signals.amounts import MOST_BEAT_MS, active_ms
from stream.signals.base import Context, PerSite, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS, HOUR_MS, MINUTE_MS
from tracker.contract.events import USAGE_EVENTS, ProfileEvent
from tracker.contract.keys import ACTIVE_MS_FIELD, USED
from tracker.contract.retention import FallingRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import USAGE_FALLING, TriggerKind, UsageFalling, rfc3339

_DEFAULTS: Final = FallingRules()


def rules_of(given: FallingRules) -> Rules:
    return Rules(given.enter, given.leave, given.least, round(given.gap_d * DAY_MS))


def _rules(settings: Settings, site: Site | None) -> Rules:
    return rules_of(_DEFAULTS if site is None else site.usage)


class UsageSignal(Signal[Usage]):
    name = "usage"
    state_type = Usage
    events: frozenset[str] | None = USAGE_EVENTS
    types = frozenset(("screen",))
    audience = USED
    tells = frozenset((USAGE_FALLING.name,))
    settings: frozenset[str] = frozenset(("sites",))

    def __init__(self) -> None:
        self.rules = PerSite(_rules)

    def fold(self, state: Usage | None, event: ProfileEvent, ctx: Context) -> Result:
        rules = self.rules(ctx.settings, ctx.site)
        if event.bot is not None:
            return Result(state=state)
        ms = active_ms(event) if event.event == "Page Engaged" else MOST_BEAT_MS
        if not ms:
            return Result(state=state)
        day, hour = (event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS, event.timestamp_ms // HOUR_MS
        after = usage.used(state, day, ms, hour, ctx.zone, rules)
        is_new = state is None or hour != state.hour
        return Result(state=after, counts=((ACTIVE_MS_FIELD, ms),), engaged=is_new)

    def engaged_ms(self, state: Usage) -> int:
        return state.hour * HOUR_MS

    def due_ms(self, state: Usage) -> int | None:
        return state.fall.due_ms

    def fire(self, state: Usage, now_ms: int, ctx: Context) -> Result:
        if state.fall.due_ms is None or state.fall.due_ms > now_ms:
            return Result(state=state)
        fall, crossing = falling.fired(
            state.fall, now_ms, usage.series(state, ctx.zone), self.rules(ctx.settings, ctx.site)
        )
        after = replace(state, fall=fall)
        if crossing is None:
            return Result(state=after)
        level = crossing.level
        trigger = Trigger(
            kind=USAGE_FALLING,
            id=emission_id(ctx.site, f"{ctx.profile_id}/{state.day}", USAGE_FALLING.name, fall.times),
            at_ms=crossing.at_ms,
            suppressed=crossing.reason,
            data=UsageFalling(
                profile_id=ctx.profile_id,
                ratio=level.recent / level.before,
                minutes=level.recent / MINUTE_MS,
                mean_minutes=level.before / MINUTE_MS,
                days_before=level.n,
                times=fall.times,
            ),
        )
        return Result(state=after, triggers=(trigger,))

    def merge(self, one: Usage, other: Usage, now_ms: int, ctx: Context) -> Result:
        return Result(state=usage.merged(one, other, ctx.zone, self.rules(ctx.settings, ctx.site)))

    def still_true(self, state: Usage, kind: TriggerKind, data: Any) -> bool:
        return state.fall.on

    def explain(self, state: Usage, now_ms: int, ctx: Context) -> dict[str, Any]:
        """How it stands as of today's start, and when it will have fallen if nothing more comes."""
        level = usage.series(state, ctx.zone).level((now_ms + ctx.utc_offset_ms) // DAY_MS)
        assert level is not None  # usage can always tell
        return {
            "on": state.fall.on,
            "minutes_7d": level.recent / MINUTE_MS,
            "mean_minutes": level.before / MINUTE_MS,
            "days_before": level.n,
            "ratio": level.ratio,
            "minutes_today": state.ms / MINUTE_MS if state.day == (now_ms + ctx.utc_offset_ms) // DAY_MS else 0.0,
            "times": state.fall.times,
            "told": rfc3339(state.fall.told_ms) if state.fall.told_ms is not None else None,
            "due": rfc3339(state.fall.due_ms) if state.fall.due_ms is not None else None,
        }
