"""Why is a profile where it is, and what will become of it? Each signal's state in words, as the profile API and
`tracker profile why` show it.

What comes next is not guessed: the signal's own `fire` is called on the stored state at its next due times, as the
worker would if no event came before, and what it tells goes by the rules of the gate as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core import gate
from stream.core.gate import Gate, Rules
from stream.profile import About, Profile, context_of
from stream.signals import SIGNALS
from stream.signals.base import Context, Result, Signal, Trigger
from stream.stored import StateError, Stored
from tracker.contract.models import SIGNALS as MODELLED
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE
from tracker.contract.triggers import rfc3339
from tracker.contract.windows import Zone

EXPLAINED: Final[dict[str, Signal[Any]]] = {s.name: s for s in SIGNALS if s.state_type is not type(None)}
"""Signals that keep something of a profile."""
CHURN: Final = (
    "on", "risk", "band", "p_alive", "likelihood", "horizon_days", "x", "t_x_days", "t_days", "crosses", "model",
    "confidence", "values", "currency", "mean_value", "clv", "high_value",
)  # fmt: skip
"""Of a churn signal's explanation, what a profile says without being asked why."""
MAX_TIMERS: Final = 3
"""How many of a signal's next timers are looked at."""

_stored: Final = {name: Stored(signal) for name, signal in EXPLAINED.items()}


class Asked(Struct, frozen=True, kw_only=True):
    """Who is asked about, as it is stored."""

    settings: Settings
    site: str
    profile_id: str
    about: Mapping[str, Any]
    """The field of that name, decoded."""
    fields: Mapping[str, str]
    """The profile's hash."""
    models: Models = {}


def explain(asked: Asked, now_ms: int, e50: float | None = None) -> dict[str, dict[str, Any]]:
    """Signal -> its explanation, of those that keep something of the profile, in the order of their registration.

    `e50`: see Context. Each explanation:

        state       in words; None where it can't be read, `unreadable` says why
        due         the next timer
        next        what happens when nothing comes before: time, what, and of a trigger its outcome
        told, held, suppressed   the latest triggers of its kinds, as the gate remembers them
        inputs      what changes it: events, calls, other signals, settings as they are
        off         signals_off names it: it stands still
    """
    states, unreadable = {}, {}
    for name, stored in _stored.items():
        if name in asked.fields:
            try:
                states[name] = stored.decode(asked.fields[name], f"{asked.site}:{asked.profile_id}")
            except StateError as e:
                unreadable[name] = str(e)
    profile = _Known(asked, states, e50)
    off = {name.strip() for name in asked.settings.signals_off.split(",")}
    explained: dict[str, dict[str, Any]] = {}
    for name, signal in EXPLAINED.items():
        said: dict[str, Any]
        if name in unreadable:
            said = {"state": None, "unreadable": unreadable[name]}
        elif name in states:
            said = profile.say(signal, states[name], now_ms, stands_still=name in off)
        else:
            continue
        inputs = _inputs(signal, asked.settings, asked.site)
        explained[name] = {**said, "inputs": inputs} | ({"off": True} if name in off else {})
    return explained


def churn(asked: Asked, now_ms: int) -> dict[str, dict[str, Any]]:
    """Churn signal -> how it stands now: risk and probabilities are of `now_ms`, by the parameters that are named."""
    found: dict[str, dict[str, Any]] = {}
    for name in MODELLED:
        if name not in asked.fields:
            continue
        try:
            state = _stored[name].decode(asked.fields[name], f"{asked.site}:{asked.profile_id}")
        except StateError:
            continue  # `explain` says why
        said = _Known(asked, {name: state}).say(EXPLAINED[name], state, now_ms, stands_still=True)["state"]
        found[name] = {field: said[field] for field in CHURN}
    return found


def _inputs(signal: Signal[Any], settings: Settings, site: str) -> dict[str, Any]:
    """Of settings that are tables only where they stand: those of sites have keys in them."""
    values = {name: getattr(settings, name) for name in sorted(signal.settings)}
    return {
        "events": sorted(signal.events) if signal.events is not None else "all",
        "calls": sorted(signal.types),
        "signals": sorted(signal.reads),
        "settings": {
            name: value if isinstance(value, int | float | str) else f"[{name}.{site}] of tracker.toml"
            for name, value in values.items()
        },
    }


class _Known:
    """What is known of the profile that is asked about."""

    def __init__(self, asked: Asked, states: dict[str, Any], e50: float | None = None) -> None:
        self._settings, self._models, self._e50 = asked.settings, asked.models, e50
        self._profile = Profile(asked.site, asked.profile_id)
        self._profile.about = msgspec.convert(asked.about, About) if asked.about else None
        self._states = states
        known = asked.settings.sites.get(asked.site)
        self._zone = Zone(known.time_zone if known is not None else DEFAULT_TIME_ZONE)
        self._rules = gate.rules_of(known.triggers) if known is not None else Rules()
        self._gate: Gate = states.get("gate", gate.OPEN)

    def say(self, signal: Signal[Any], state: Any, now_ms: int, *, stands_still: bool) -> dict[str, Any]:
        due = None if stands_still else signal.due_ms(state)
        said: dict[str, Any] = {
            "state": msgspec.json.decode(msgspec.json.encode(signal.explain(state, now_ms, self._context(now_ms)))),
            "due": rfc3339(due) if due is not None else None,
            "next": [] if due is None else self._next(signal, state),
        }
        if signal.tells:
            of = EXPLAINED["gate"].explain(self._gate, now_ms, self._context(now_ms))
            for name in ("told", "held", "suppressed"):
                ours = [t for t in of[name] if t["kind"] in signal.tells]
                said[name] = [t for t in ours if t.get("signal") in (None, signal.name)]
        return said

    def _next(self, signal: Signal[Any], state: Any) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for _ in range(MAX_TIMERS):
            if (due := signal.due_ms(state)) is None:
                break
            result = signal.fire(state, due, self._context(due))
            steps += self._steps(signal, result, due) or [{"time": rfc3339(due), "what": "it is looked at again"}]
            state = result.state
        return steps

    def _steps(self, signal: Signal[Any], result: Result, due_ms: int) -> list[dict[str, Any]]:
        steps = [
            {"time": rfc3339(trigger.at_ms), "what": trigger.kind.name, "outcome": self._outcome(trigger, due_ms)}
            for trigger in result.triggers
        ]
        ids = {trigger.id for trigger in result.triggers}
        described = [signal.describe(each, self._context(due_ms)) for each in result.emitted]
        steps += [{"time": d["time"], "what": d["type"]} for d in described if d.get("id") not in ids]
        return sorted(steps, key=lambda step: step["time"])

    def _outcome(self, trigger: Trigger, due_ms: int) -> str:
        """What becomes of it by today's rules, if nothing else is told before."""
        if trigger.suppressed is not None:
            return f"suppressed: {trigger.suppressed}"
        if not trigger.kind.marketing:
            return "published"
        if trigger.told_by is not None and (teller := EXPLAINED.get(trigger.told_by)) is not None:
            state = self._states.get(teller.name)
            if state is None or not teller.still_true(state, trigger.kind, trigger.data):
                return "suppressed: void"
        moment_ms = max(trigger.at_ms, due_ms, trigger.held_until_ms)
        contacts = self._states.get("contact")
        reason = gate.reason_against(self._gate, trigger.kind.name, trigger.id, contacts, self._rules, moment_ms)
        if reason is not None:
            return f"suppressed: {reason}"
        until_ms = gate.quiet_until(self._rules, moment_ms, self._zone)
        if until_ms is None:
            return "published"
        return f"held until {rfc3339(until_ms)}" if self._rules.delay else "suppressed: quiet"

    def _context(self, ms: int) -> Context:
        return context_of(self._profile, self._zone, ms, self._settings, self._models, self._states, e50=self._e50)
