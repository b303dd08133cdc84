"""Rules: an event becomes a trigger `rule`, when its properties and the profile are as `[[sites.NAME.rules]]` asks.

The profile is as the event leaves it, at the event's time. The id is made of the rule, the profile and what it is told
once for (the message, the session, the local day): the same event played again gives the same id, if any.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from stream.core.activity import Activity, iso_day
from stream.core.parts import read_part
from stream.signals import conditions
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent, event_label
from tracker.contract.predicates import FIELDS, Rule
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.triggers import RULE, RuleMet, rfc3339

MAX_TOLD: Final = 50
SHOWN: Final = 10
"""Of these, in an explanation."""
MAX_PROPERTIES_BYTES: Final = 4096
_properties: Final = msgspec.json.Decoder(dict[str, Any])


class Rules(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `rules`."""

    told: dict[str, tuple[tuple[str, int], ...]] = {}
    """Rule -> (what it was told for, when, ms), sorted by time: the latest."""


class RuleSignal(Signal[Rules]):
    name = "rules"
    tells = frozenset((RULE.name,))
    state_type = Rules
    events: frozenset[str] | None = None
    settings: frozenset[str] = conditions.SETTINGS
    reads = frozenset(field.reads for field in FIELDS.values())

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._of: dict[str, dict[str, tuple[Rule, ...]]] = {}

    def asks(self, site: Site | None) -> frozenset[str] | None:
        return frozenset(rule.event for rule in site.rules) if site is not None else frozenset()

    def rules(self, settings: Settings, site: str, event: str) -> tuple[Rule, ...]:
        if settings is not self._settings:
            self._of = {}
            for name, one in settings.sites.items():
                of = self._of[name] = {}
                for rule in one.rules:
                    of[rule.event] = (*of.get(rule.event, ()), rule)
            self._settings = settings
        return self._of.get(site, {}).get(event, ())

    def fold(self, state: Rules | None, event: ProfileEvent, ctx: Context) -> Result:
        rules = self.rules(ctx.settings, ctx.site, event_label(event))
        if not rules:
            return Result(state=state)
        after, triggers = state or Rules(), []
        properties = read_part(_properties, event.properties) or {}
        for rule in rules:
            if rule.where is not None and not conditions.matches(rule.where, properties):
                continue
            if rule.when is not None and not conditions.holds(rule.when, event.timestamp_ms, ctx)[0]:
                continue
            key = _key(rule, event, ctx)
            told = after.told.get(rule.name, ())
            if any(key == known for known, _ in told):
                continue
            window_ms = rule.per_d * DAY_MS
            recent = sum(abs(event.timestamp_ms - ms) < window_ms for _, ms in told)
            is_over = bool(rule.most) and recent >= rule.most
            triggers.append(_trigger(rule, key, event, properties, is_over, ctx))
            if not is_over:
                latest = tuple(sorted((*told, (key, event.timestamp_ms)), key=lambda t: (t[1], t[0])))[-MAX_TOLD:]
                after = Rules({**after.told, rule.name: latest})
        return Result(state=after if after.told else state, triggers=tuple(triggers))

    def merge(self, one: Rules, other: Rules, now_ms: int, ctx: Context) -> Result:
        told = {}
        for rule in sorted({*one.told, *other.told}):
            times: dict[str, int] = {}
            for key, ms in (*one.told.get(rule, ()), *other.told.get(rule, ())):
                times[key] = max(ms, times.get(key, 0))
            told[rule] = tuple(sorted(times.items(), key=lambda t: (t[1], t[0])))[-MAX_TOLD:]
        return Result(state=Rules(told))

    def explain(self, state: Rules, now_ms: int, ctx: Context) -> dict[str, Any]:
        """What each rule was told for, the latest first."""
        site = ctx.settings.sites.get(ctx.site)
        by_name = {rule.name: rule for rule in site.rules} if site is not None else {}
        return {
            "rules": [
                {
                    "rule": name,
                    "once": by_name[name].once if name in by_name else None,
                    "told": [{"time": rfc3339(ms), "for": _said(key)} for key, ms in reversed(told[-SHOWN:])],
                }
                for name, told in sorted(state.told.items())
            ]
        }


def _said(key: str) -> str:
    """What a rule was told for, with times as people read them."""
    what, _, of = key.partition(" ")
    if what == "day" and of.lstrip("-").isdigit():
        return f"day {iso_day(int(of))}"
    return f"session of {rfc3339(int(of))}" if what == "session" and of.isdigit() else key


def _key(rule: Rule, event: ProfileEvent, ctx: Context) -> str:
    match rule.once:
        case "message":
            return event.message_id
        case "day":
            return f"day {(event.timestamp_ms + ctx.utc_offset_ms) // DAY_MS}"
        case "session":
            activity: Activity | None = ctx.states.get("activity")
            for first, last in reversed(activity.sessions if activity is not None else ()):
                if first <= event.timestamp_ms <= last:
                    return f"session {first}"
            return event.message_id
        case _:
            return "ever"


def _trigger(
    rule: Rule, key: str, event: ProfileEvent, properties: dict[str, Any], is_over: bool, ctx: Context
) -> Trigger:
    is_small = event.properties is not UNSET and len(event.properties) <= MAX_PROPERTIES_BYTES
    return Trigger(
        kind=RULE,
        id=emission_id(ctx.site, f"{rule.name}/{ctx.profile_id}/{key}", RULE.name, 1),
        at_ms=event.timestamp_ms,
        suppressed="gap" if is_over else None,
        data=RuleMet(
            profile_id=ctx.profile_id,
            rule=rule.name,
            event=event_label(event),
            message_id=event.message_id,
            properties=properties if is_small else None,
        ),
    )
