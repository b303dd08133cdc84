"""The gate: the one place where a trigger is let through, held back until the morning, or suppressed.

Signals say what is true; whether a message may come of it is decided here, by what the site allows (`triggers` in
tracker.toml) and what the profile was told before. In this order, for kinds that a message to a person comes of:

    repeat      the same id was let through before
    denied      the person said no on all channels
    no_consent  no channel may be used by the site's policy on consent
    cap         the site's most of all such kinds, or of this one (kind_cap), were let through within cap_h
    quiet       quiet hours: it waits for their end, or is suppressed

What waited goes through all of it again, and is dropped (void) when what it said is not so any more. Kinds that only
inform systems pass. A retraction passes if what it retracts was let through (else not_told); what still waited for the
morning is dropped with it (retracted).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from stream.core.contact import ALL, Contacts, channels, consent
from tracker.contract.durations import HOUR_MS, MINUTE_S
from tracker.contract.sites import TriggerPolicy, quiet_minutes
from tracker.contract.triggers import INFORMING
from tracker.contract.windows import Zone

MAX_TOLD: Final = 64
"""More than a cap may be (50)."""
MAX_HELD: Final = 16
MAX_HELD_BYTES: Final = 256 * 1024
MAX_STOPPED: Final = 10
DAY_MINUTES: Final = 1440


class Told(Struct, frozen=True, array_like=True):
    """A trigger that was let through."""

    id: str
    kind: str
    ms: int


class Held(Struct, frozen=True, omit_defaults=True):
    """A trigger that waits for the end of quiet hours."""

    kind: str
    id: str
    at_ms: int
    until_ms: int
    signal: str
    """Which told it."""
    data: Raw
    """Without the person: who that is, is asked when it goes."""

    @property
    def order(self) -> tuple[int, int, str]:
        return self.until_ms, self.at_ms, self.id


class Stopped(Struct, frozen=True, omit_defaults=True):
    """A trigger that was suppressed: for people who ask why nothing came."""

    kind: str
    id: str
    at_ms: int
    reason: str


class Gate(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `gate`."""

    told: tuple[Told, ...] = ()
    """The latest, by time."""
    held: tuple[Held, ...] = ()
    """By `order`."""
    stopped: tuple[Stopped, ...] = ()
    """The latest, by time."""


OPEN: Final = Gate()


class Rules(Struct, frozen=True):
    """A site's policy."""

    consent: str = "optional"
    cap: int = 0
    kind_caps: dict[str, int] = {}
    cap_ms: int = 24 * HOUR_MS
    quiet: tuple[int, int] | None = None
    """From, to: minutes of the local day."""
    delay: bool = True


def rules_of(policy: TriggerPolicy) -> Rules:
    return Rules(
        policy.consent,
        policy.cap,
        dict(policy.kind_caps),
        round(policy.cap_h * HOUR_MS),
        quiet_minutes(policy.quiet_hours),
        policy.quiet == "delay",
    )


# -- decisions


def reason_against(
    gate: Gate, kind: str, id: str, contacts: Contacts | None, rules: Rules, moment_ms: int
) -> str | None:
    """Why a trigger of a marketing kind must not go out at all; None = it may, quiet hours aside."""
    if any(t.id == id for t in gate.told):
        return "repeat"
    if (reason := _without_consent(contacts, rules.consent)) is not None:
        return reason
    if rules.cap or rules.kind_caps:
        since = moment_ms - rules.cap_ms
        recent = [t for t in gate.told if t.ms > since and t.kind not in INFORMING]
        if rules.cap and len(recent) >= rules.cap:
            return "cap"
        most = rules.kind_caps.get(kind)
        if most is not None and sum(t.kind == kind for t in recent) >= most:
            return "kind_cap"
    return None


def _without_consent(contacts: Contacts | None, policy: str) -> str | None:
    """A profile that nobody can write to yet is no reason against, unless a yes is required: a page may show it
    something."""
    ways = channels(contacts, policy) if contacts is not None else []
    if contacts is not None:
        to_all = consent(contacts.consents, ALL, "")
        if to_all is not None and not to_all.yes and not any(w.consent == "granted" for w in ways):
            return "denied"
        if ways and all(w.consent == "denied" for w in ways):
            return "denied"
    if any(w.usable for w in ways) or policy == "ignore":
        return None
    return "no_consent" if ways or policy == "required" else None


def quiet_until(rules: Rules, moment_ms: int, zone: Zone) -> int | None:
    """The end of the quiet hours that the moment lies in; None = it lies in none."""
    if rules.quiet is None:
        return None
    begin, end = rules.quiet
    moment_s = moment_ms // 1000
    day, minute = divmod((moment_s + zone.offset_s(moment_s)) // MINUTE_S, DAY_MINUTES)
    quiet = begin <= minute < end if begin < end else minute >= begin or minute < end
    if not quiet:
        return None
    at = day * DAY_MINUTES + end + (DAY_MINUTES if end <= minute else 0)
    return zone.of_local(at * MINUTE_S, after_s=moment_s) * 1000


# -- what becomes of the state


def with_told(gate: Gate, told: Told) -> Gate:
    return replace(gate, told=_told((*gate.told, told)))


def with_stopped(gate: Gate, stopped: Stopped) -> Gate:
    return replace(gate, stopped=_stopped((*gate.stopped, stopped)))


def with_held(gate: Gate, held: Held) -> tuple[Gate, tuple[Held, ...]]:
    """And those that there is no room for."""
    kept, dropped = _held((*gate.held, held))
    return replace(gate, held=kept), dropped


def without_held(gate: Gate, id: str) -> tuple[Gate, Held | None]:
    found = next((h for h in gate.held if h.id == id), None)
    return (gate if found is None else replace(gate, held=tuple(h for h in gate.held if h.id != id))), found


def was_told(gate: Gate, id: str) -> bool:
    return any(t.id == id for t in gate.told)


def due_ms(gate: Gate) -> int | None:
    return gate.held[0].until_ms if gate.held else None


def release(gate: Gate, now_ms: int) -> tuple[Gate, tuple[Held, ...]]:
    """Those that have waited long enough, in order."""
    due = tuple(h for h in gate.held if h.until_ms <= now_ms)
    return (replace(gate, held=gate.held[len(due) :]) if due else gate), due


def merged(one: Gate, other: Gate) -> Gate:
    """All that either was told counts for both. What waits twice, or was told to the other, is one."""
    told = _told((*one.told, *other.told))
    ids = {t.id for t in told}
    held, dropped = _held(h for h in (*one.held, *other.held) if h.id not in ids)
    stopped = (*one.stopped, *other.stopped, *(Stopped(h.kind, h.id, h.at_ms, "quiet") for h in dropped))
    return Gate(told, held, _stopped(stopped))


def _told(told: Iterable[Told]) -> tuple[Told, ...]:
    first: dict[str, Told] = {}
    for t in sorted(told, key=lambda t: (t.ms, t.id, t.kind)):
        first.setdefault(t.id, t)
    return tuple(first.values())[-MAX_TOLD:]


def _held(held: Iterable[Held]) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
    by_id: dict[str, Held] = {}
    for h in sorted(held, key=lambda h: (h.order, bytes(h.data))):
        by_id.setdefault(h.id, h)
    kept = list(by_id.values())
    dropped: list[Held] = []
    while len(kept) > MAX_HELD or sum(len(bytes(h.data)) for h in kept) > MAX_HELD_BYTES:
        oldest = min(kept, key=lambda h: (h.at_ms, h.id))
        kept.remove(oldest)
        dropped.append(oldest)
    return tuple(kept), tuple(dropped)


def _stopped(stopped: Iterable[Stopped]) -> tuple[Stopped, ...]:
    distinct = {(s.at_ms, s.kind, s.id, s.reason): s for s in stopped}
    return tuple(distinct[key] for key in sorted(distinct)[-MAX_STOPPED:])
