"""Somebody comes, or opens messages, less than before: `engagement_falling`, of visits and of messages.

Visit days are those of the signal `visit`. Messages are of channels that tell whether they were seen: e-mail, Zalo,
Viber; of SMS nobody knows. A message goes by its `message_id`, else its campaign and, where there is one, its
`email_id`; a click shows that it was opened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stream.core import answers, falling
from stream.core.answers import BEFORE_D, KEPT_D, RECENT_D, Messages
from stream.core.churn_watch import Watched
from stream.core.falling import NO_FALL, Crossing, Fall, Level, Rules, Series
from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, PerSite, Result, Signal, Trigger
from stream.signals.usage import rules_of
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.events import MESSAGE_ACTIONS, ProfileEvent
from tracker.contract.retention import FallingRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import ENGAGEMENT_FALLING, EngagementFalling, TriggerKind, rfc3339
from tracker.contract.windows import Zone

VISIT: Final = "visit"
MESSAGE: Final = "message"
TELLING: Final = frozenset(("email", "zalo", "viber"))
"""Channels that tell whether a message was seen."""
OPENS: Final[dict[str, bool]] = {
    name: action != "delivered"
    for name, (channel, action) in MESSAGE_ACTIONS.items()
    if (channel is None or channel in TELLING) and action in ("delivered", "seen", "clicked", "replied")
}
"""Event -> whether it shows that the message was opened."""
MAX_ID_CHARS: Final = 60
_DEFAULTS: Final = FallingRules()


class _Said(Struct):
    message_id: Any = None
    email_id: Any = None
    campaign_id: Any = None
    campaign: Any = None
    campaign_name: Any = None
    template_id: Any = None
    channel: Any = None
    machine_open: Any = None
    sg_machine_open: Any = None


_said = msgspec.json.Decoder(_Said)


class Engagement(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `engagement`."""

    messages: Messages = ()
    visit: Fall = NO_FALL
    message: Fall = NO_FALL


_NEW: Final = Engagement()


def _rules(settings: Settings, site: Site | None) -> Rules:
    return rules_of(_DEFAULTS if site is None else site.engagement)


class EngagementSignal(Signal[Engagement]):
    name = "engagement"
    state_type = Engagement
    events: frozenset[str] | None = frozenset(OPENS)
    tells = frozenset((ENGAGEMENT_FALLING.name,))
    settings: frozenset[str] = frozenset(("sites",))
    reads = frozenset((VISIT,))

    def __init__(self) -> None:
        self.rules = PerSite(_rules)

    def fold(self, state: Engagement | None, event: ProfileEvent, ctx: Context) -> Result:
        rules = self.rules(ctx.settings, ctx.site)
        assert event.event is not None  # the shell passes only events named in `events`
        p = read_part(_said, event.properties) or _Said()
        channel = MESSAGE_ACTIONS[event.event][0] or event.channel
        opened = OPENS[event.event]
        by_machine = p.machine_open is True or p.sg_machine_open is True
        if event.bot is not None or not rules.enter or channel not in TELLING or (opened and by_machine):
            return Result(state=state)
        before = _NEW if state is None else state
        day = (event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS
        id = f"{channel} {_message(p) or event.message_id}"[:MAX_ID_CHARS]
        messages = answers.heard(before.messages, day, id, opened)
        if messages is before.messages:
            return Result(state=state)
        return Result(state=_with_messages(before, messages, before.message, ctx, rules))

    def settle(self, state: Engagement | None, now_ms: int, ctx: Context) -> Result:
        """The days with a visit have changed."""
        rules = self.rules(ctx.settings, ctx.site)
        before = NO_FALL if state is None else state.visit
        days = _visits(ctx)
        if not rules.enter or len(days) < rules.least:
            after = replace(before, due_ms=None) if before.due_ms is not None else before
        else:
            after = falling.settled(before, _visit_series(days, ctx.zone), rules)
        if after == before:
            return Result(state=state)
        return Result(state=replace(_NEW if state is None else state, visit=after))

    def due_ms(self, state: Engagement) -> int | None:
        a, b = state.visit.due_ms, state.message.due_ms
        return b if a is None else a if b is None else min(a, b)

    def fire(self, state: Engagement, now_ms: int, ctx: Context) -> Result:
        rules, days = self.rules(ctx.settings, ctx.site), _visits(ctx)
        series = {
            VISIT: _visit_series(days, ctx.zone) if days else None,
            MESSAGE: answers.series(state.messages, ctx.zone) if state.messages else None,
        }
        falls, triggers = {VISIT: state.visit, MESSAGE: state.message}, []
        for name, fall in falls.items():
            if fall.due_ms is not None and fall.due_ms <= now_ms:
                falls[name], crossing = falling.fired(fall, now_ms, series[name], rules)
                if crossing is not None:
                    triggers.append(_trigger(name, falls[name], crossing, ctx))
        after = Engagement(state.messages, falls[VISIT], falls[MESSAGE])
        return Result(state=after, triggers=tuple(sorted(triggers, key=lambda t: t.at_ms)))

    def merge(self, one: Engagement, other: Engagement, now_ms: int, ctx: Context) -> Result:
        """The messages of both. The days with a visit come by another part, and `settle` follows."""
        rules, days = self.rules(ctx.settings, ctx.site), _visits(ctx)
        visit = falling.merged(one.visit, other.visit)
        if days and rules.enter:
            visit = falling.settled(visit, _visit_series(days, ctx.zone), rules)
        after = replace(one, visit=visit)
        messages = answers.merged(one.messages, other.messages)
        message = falling.merged(one.message, other.message)
        return Result(state=_with_messages(after, messages, message, ctx, rules))

    def still_true(self, state: Engagement, kind: TriggerKind, data: Any) -> bool:
        return (state.visit if data.signal == VISIT else state.message).on

    def explain(self, state: Engagement, now_ms: int, ctx: Context) -> dict[str, Any]:
        """How both stand as of today's start, and when they will have fallen if nothing more comes."""
        day, days = (now_ms + ctx.utc_offset_ms) // DAY_MS, _visits(ctx)
        visits = _visit_series(days, ctx.zone).level(day) if days else None
        messages = answers.series(state.messages, ctx.zone).level(day) if state.messages else None
        return {VISIT: _explained(state.visit, visits), MESSAGE: _explained(state.message, messages)}


def _visits(ctx: Context) -> Sequence[int]:
    watched: Watched | None = ctx.states.get(VISIT)
    return watched.days if watched is not None else ()


def _visit_series(days: Sequence[int], zone: Zone) -> Series:
    """Days with a visit by day."""

    def level(day: int) -> Level:
        first, middle, last = (bisect_left(days, day - d) for d in (KEPT_D, RECENT_D, 0))
        return Level((last - middle) / RECENT_D, (middle - first) / BEFORE_D, middle - first)

    return Series(days, RECENT_D, (RECENT_D + 1,), level, zone)


def _with_messages(state: Engagement, messages: Messages, fall: Fall, ctx: Context, rules: Rules) -> Engagement:
    if len(messages) > rules.least and any(m.opened for m in messages):
        fall = falling.settled(fall, answers.series(messages, ctx.zone), rules)
    elif fall.due_ms is not None:
        fall = replace(fall, due_ms=None)
    return Engagement(messages, state.visit, fall)


def _message(p: _Said) -> str | None:
    """What tells one message to a person from another."""
    of = p.campaign
    if isinstance(of, dict):
        of = of.get("id") or of.get("name")
    if (name := shop.text(p.message_id, MAX_ID_CHARS)) is not None:
        return name
    named = (shop.text(given, MAX_ID_CHARS) for given in (p.campaign_id, of, p.campaign_name, p.template_id))
    campaign = next((name for name in named if name is not None), None)
    if (email := shop.text(p.email_id, MAX_ID_CHARS)) is not None:  # of the Segment Spec: one of a campaign's mails
        return f"{email} {campaign}" if campaign is not None else email
    return campaign


def _trigger(name: str, fall: Fall, crossing: Crossing, ctx: Context) -> Trigger:
    level = crossing.level
    return Trigger(
        kind=ENGAGEMENT_FALLING,
        id=emission_id(ctx.site, f"{ctx.profile_id}/{name}/{crossing.at_ms}", ENGAGEMENT_FALLING.name, fall.times),
        at_ms=crossing.at_ms,
        suppressed=crossing.reason,
        data=EngagementFalling(
            profile_id=ctx.profile_id,
            signal=name,
            ratio=level.recent / level.before,
            rate=level.recent,
            rate_before=level.before,
            n_before=level.n,
            times=fall.times,
        ),
    )


def _explained(fall: Fall, level: Level | None) -> dict[str, Any]:
    return {
        "on": fall.on,
        "rate": level.recent if level is not None else None,
        "rate_before": level.before if level is not None else None,
        "n_before": level.n if level is not None else 0,
        "ratio": level.ratio if level is not None else None,
        "times": fall.times,
        "told": rfc3339(fall.told_ms) if fall.told_ms is not None else None,
        "due": rfc3339(fall.due_ms) if fall.due_ms is not None else None,
    }
