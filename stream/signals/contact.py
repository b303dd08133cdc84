"""How a profile can be reached: addresses, consent, bounces and the channel that works best (stream/core/contact.py).

No triggers: what it knows goes into those of all kinds, and decides whether they go out (stream/core/gate.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core import contact
from stream.core.contact import ALL, CHANNELS_OF, NOBODY, TYPE_OF, Address, Contacts, Statement
from stream.core.identity import Said, external_ids, read_context
from stream.core.parts import read_part
from stream.signals.base import Context, Result, Signal
from tracker.contract import events as ev
from tracker.contract.durations import DAY_MS
from tracker.contract.events import CONSENT_ACTIONS, MESSAGE_ACTIONS, VERIFIED, ProfileEvent
from tracker.contract.ids import normal, usable
from tracker.contract.sites import TriggerPolicy
from tracker.contract.triggers import rfc3339

CLAIMS: Final = frozenset((ev.SUBSCRIBED, ev.FORM_SUBMITTED, ev.POPUP_SUBMITTED, ev.SIGNED_UP))
"""Events in whose properties a person names an address of theirs."""
TELLING: Final = frozenset(
    name for name, (_, action) in MESSAGE_ACTIONS.items() if action in ("delivered", "clicked", "failed", "replied")
)
"""Reports of messages that tell something of their channel."""
NAMES: Final[dict[str, str]] = {
    **{channel: channel for channel in TYPE_OF},
    "e-mail": "email", "mail": "email", "phone": "sms", "text": "sms", "zalo_oa": "zalo", "zalo_zns": "zns",
    "push": "webpush", "web_push": "webpush", "web push": "webpush", "all": ALL, ALL: ALL,
}  # fmt: skip
"""What events call a channel -> the channel."""
YES: Final = frozenset(
    ("true", "1", "yes", "y", "on", "granted", "grant", "subscribed", "opted_in", "opt_in", "optin", "allowed",
     "accepted")
)  # fmt: skip
NO: Final = frozenset(
    ("false", "0", "no", "n", "off", "denied", "deny", "unsubscribed", "opted_out", "opt_out", "optout", "revoked",
     "withdrawn", "declined", "rejected")
)  # fmt: skip
STOP: Final = frozenset(
    ("stop", "stopall", "stop all", "unsubscribe", "cancel", "end", "quit", "optout", "tc", "tc qc", "tu choi",
     "từ chối", "huy", "hủy", "huỷ")
)  # fmt: skip
"""Answers to an SMS that mean no (carriers' words, and Vietnam's)."""
START: Final = frozenset(("start", "unstop"))
SOFT: Final = frozenset(
    ("soft", "softbounce", "temporary", "transient", "blocked", "block", "deferred", "undetermined", "dnserror")
)
HARD: Final = frozenset(("hard", "hardbounce", "permanent", "gone", "invalid"))
REPLIED: Final = "Message Replied"
STOPPED_AT_CARRIER: Final = "21610"
"""Twilio: the recipient has answered STOP."""

_word = re.compile(r"[^\w ]+").sub


class _Properties(Struct):
    """What is read of an event's properties."""

    channel: Any = None
    channels: Any = None
    consents: Any = None
    consent: Any = None
    granted: Any = None
    subscribed: Any = None
    status: Any = None
    opt_in: Any = None
    opted_in: Any = None
    email: Any = None
    phone: Any = None
    address: Any = None
    recipient: Any = None
    to: Any = None
    text: Any = None
    body: Any = None
    message: Any = None
    type: Any = None
    bounce_type: Any = None
    severity: Any = None
    permanent: Any = None
    code: Any = None
    error_code: Any = None


class _Traits(Struct):
    email: Any = None
    phone: Any = None


_properties: Final = msgspec.json.Decoder(_Properties)
_traits: Final = msgspec.json.Decoder(_Traits)
_fields: Final = msgspec.json.Decoder(dict[str, Any])


class ContactSignal(Signal[Contacts]):
    name = "contact"
    state_type = Contacts
    events: frozenset[str] | None = CLAIMS.union(CONSENT_ACTIONS, TELLING, VERIFIED)
    types = frozenset(("identify", "alias"))
    settings: frozenset[str] = frozenset(("phone_country", "sites"))

    def fold(self, state: Contacts | None, event: ProfileEvent, ctx: Context) -> Result:
        country = ctx.settings.phone_country
        p = read_part(_properties, event.properties) or _Properties()
        context = read_context(event.context)
        found = list(_addresses(event, p, context, country))
        after = NOBODY if state is None else state
        for type, value, verified in found:
            after = contact.with_address(after, Address(type, value, event.timestamp_ms, verified))
        if event.type == "track":
            after = contact.with_consent(after, _consents(event, p, found, country))
            after = _arrivals(after, event, p, found, country)
        return Result(state=after)

    def explain(self, state: Contacts, now_ms: int, ctx: Context) -> dict[str, Any]:
        """The channels as the site may use them, and why: addresses, what the person said, what arrived."""
        site = ctx.settings.sites.get(ctx.site)
        policy = (site.triggers if site is not None else TriggerPolicy()).consent
        return {
            "channels": msgspec.to_builtins(contact.channels(state, policy)),
            "preferred": contact.preferred(state, now_ms),
            "policy": policy,
            "addresses": [
                {"type": a.type, "value": a.value, "verified": a.verified, "time": rfc3339(a.said_ms)}
                for a in state.addresses
            ],
            "said": [_explained(s) for s in state.consents],
            "arrives": [_explained(s) for s in state.arrives],
        }

    def merge(self, one: Contacts, other: Contacts, now_ms: int, ctx: Context) -> Result:
        return Result(state=contact.merged(one, other))


def _explained(s: Statement) -> dict[str, Any]:
    return {"channel": s.channel, "address": s.address or "all", "yes": s.yes, "time": rfc3339(s.ms), "by": s.by}


Found = tuple[str, str, bool]
"""(type, value, whether it is shown to be the person's own)."""


def _addresses(event: ProfileEvent, p: _Properties, context: Said | None, country: str) -> Iterator[Found]:
    """The addresses of the person that the event names: by the rules of docs/identity.md, and claims."""
    trusted = event.source == "import"
    for kind, value in external_ids(context, trusted, country):
        yield kind, value, True
    if event.type in ("identify", "alias"):
        verified = usable(event.user_id) is not None
        types: tuple[str, ...] = ("email", "phone")
    else:
        name = event.event or ""
        row = VERIFIED.get(name)
        verified = row is not None and (trusted or not row[1])
        if verified:
            types = row[0] if row is not None else ()
        elif name in CLAIMS or trusted:
            types = ("email", "phone")
        else:
            return
    # A server's report of a message that names nobody but the address is of whoever has the address.
    verified = verified or (trusted and usable(event.user_id) is None and usable(event.anonymous_id) is None)
    said: list[Any] = [read_part(_traits, event.traits)]
    said.append(read_part(_traits, context.traits) if context is not None else None)
    if event.type == "track":
        said.append(p)
    for place in said:
        for type in types:
            given = getattr(place, type, None)
            if given is not None and (known := normal(type, given, country)) is not None:
                yield type, known, verified


def _address(channel: str, p: Any, found: list[Found], country: str) -> str:
    """The address of a channel that an event is about; "" when it names none."""
    type = TYPE_OF.get(channel, "")
    if type in ("email", "phone"):
        for name in (type, "address", "recipient", "to"):
            given = p.get(name) if isinstance(p, dict) else getattr(p, name, None)
            if given is not None and (value := normal(type, given, country)) is not None:
                return value
    return next((value for of, value, _ in found if of == type), "")


# -- consent


def _consents(event: ProfileEvent, p: _Properties, found: list[Found], country: str) -> list[Statement]:
    name, ms = event.event or "", event.timestamp_ms
    row = CONSENT_ACTIONS.get(name)
    said: list[tuple[str, bool, Any]] = []
    """(channel, yes or no, what names the address)."""
    if row is None:
        if name == REPLIED and _channel_of(event, p) == "sms":
            if (word := _answer(p)) in STOP or word in START:
                said.append(("sms", word in START, p))
        elif name == "Message Failed" and STOPPED_AT_CARRIER in (str(p.code), str(p.error_code)):
            said.append(("sms", False, p))
    elif row[1] is None:
        said += _updates(event, p)
    else:
        said += [(channel, row[1], p) for channel in _meant(event, row[0], row[1], p)]
    return [Statement(channel, _address(channel, about, found, country), yes, ms, name) for channel, yes, about in said]


def _answer(p: _Properties) -> str:
    """What somebody has answered, as STOP and START spell it."""
    word = next((w for w in (p.text, p.body, p.message) if isinstance(w, str)), "")[:40]
    return " ".join(_word(" ", word).casefold().split())


def left(event: ProfileEvent) -> str | None:
    """The channel whose messages somebody wants no more, by the answer STOP or by `Unsubscribed`: as it says, or of
    the address in it. None: it says nothing of that, or not of which."""
    p = read_part(_properties, event.properties) or _Properties()
    if event.event == ev.UNSUBSCRIBED:
        meant = _meant(event, None, False, p)
        return meant[0] if meant and meant[0] != ALL else None
    return "sms" if event.event == REPLIED and _channel_of(event, p) == "sms" and _answer(p) in STOP else None


def _meant(event: ProfileEvent, channel: str | None, yes: bool, p: _Properties) -> tuple[str, ...]:
    """The channels of a yes or no: the event's name says it, or it itself, or the address in it. Else a no is one to
    all, a yes one to mails (a newsletter's form has nothing else). What is said of a channel that nobody knows here is
    said of no other."""
    named = (channel,) if channel is not None else _named_by(event, p)
    if named is not None:
        return named
    if p.email is None and p.phone is not None:
        return CHANNELS_OF["phone"]
    if p.email is not None or yes:
        return ("email",)
    return (ALL,)


def _channel_of(event: ProfileEvent, p: _Properties) -> str | None:
    given = _named(p.channel)
    return given if given is not None else event.channel if event.channel in TYPE_OF else None


def _named_by(event: ProfileEvent, p: _Properties) -> tuple[str, ...] | None:
    """The channels that the event names, else its own; None: that is none of a message."""
    said = _said_channels(p)
    return said if said is not None else (event.channel,) if event.channel in TYPE_OF else None


def _said_channels(p: _Properties) -> tuple[str, ...] | None:
    """The channels that the event names, one or several, as far as they are known here; None: it names none."""
    for given in (p.channel, p.channels):
        names = re.split(r"[,;|]", given[:200]) if isinstance(given, str) else given
        if isinstance(names, list) and any(isinstance(name, str) and name.strip() for name in names):
            return tuple(dict.fromkeys(c for name in names[:16] if (c := _named(name)) is not None))
    return None if (channel := _named(p.type)) is None else (channel,)


def _named(value: object) -> str | None:
    return NAMES.get(value.strip().lower()[:20]) if isinstance(value, str) else None


def _updates(event: ProfileEvent, p: _Properties) -> Iterator[tuple[str, bool, Any]]:
    """Consent Updated: {channel, consent, email or phone}, where channel may be a list, or {channels: {email: true,
    sms: false}}, or a list of such, or just {email: true, sms: false}."""
    many = next((m for m in (p.channels, p.consents, p.consent) if _is_by_channel(m)), None)
    if isinstance(many, dict):
        for name, value in list(many.items())[:16]:
            channel, yes = _named(name), _yes(value)
            if channel is not None and yes is not None:
                yield channel, yes, value if isinstance(value, dict) else p
    elif isinstance(many, list):
        for item in many[:16]:
            if isinstance(item, dict) and (channel := _named(item.get("channel"))) is not None:
                yes = _yes(item)
                if yes is not None:
                    yield channel, yes, item
    elif flags := _flags(event):
        for channel, yes in flags:
            yield channel, yes, p
    else:
        said = (p.consent, p.granted, p.subscribed, p.status, p.opt_in, p.opted_in)
        answer = next((y for v in said if (y := _yes(v)) is not None), None)
        if answer is not None:
            channels = _named_by(event, p)
            if channels is None:
                of_an_address = p.email is not None or p.phone is not None
                channels = _meant(event, None, answer, p) if of_an_address else (ALL,)
            for channel in channels:
                yield channel, answer, p


def _is_by_channel(given: object) -> bool:
    """Whether it says something of each channel, or is a list of what does."""
    if isinstance(given, list):
        return any(isinstance(item, dict) for item in given)
    return isinstance(given, dict) and any(_named(name) is not None for name in given)


def _flags(event: ProfileEvent) -> list[tuple[str, bool]]:
    """{email: true, sms: false}"""
    fields = read_part(_fields, event.properties) or {}
    return [
        (channel, value)
        for name, value in fields.items()
        if isinstance(value, bool) and (channel := _named(name)) is not None
    ][:16]


def _yes(value: object) -> bool | None:
    if isinstance(value, dict):
        names = ("consent", "granted", "subscribed", "status", "opt_in", "opted_in")
        return next((y for n in names if not isinstance(v := value.get(n), dict) and (y := _yes(v)) is not None), None)
    if isinstance(value, bool | int | str):
        word = str(value)[:20].strip().lower().replace("-", "_").replace(" ", "_")
        return True if word in YES else False if word in NO else None
    return None


# -- messages


def _arrivals(state: Contacts, event: ProfileEvent, p: _Properties, found: list[Found], country: str) -> Contacts:
    """What a report of a message tells: that it arrived, was clicked, or can't arrive."""
    row = MESSAGE_ACTIONS.get(event.event or "")
    if row is None:
        return state
    fixed, action = row
    channel = fixed or _channel_of(event, p)
    if channel is None or channel not in TYPE_OF:
        return state
    if action in ("delivered", "clicked"):
        day = event.timestamp_ms // DAY_MS
        state = contact.with_send(state, channel, day, action == "delivered", action == "clicked")
    yes = action == "delivered"
    if yes or (action == "failed" and _is_hard(channel, p)):
        address = _address(channel, p, found, country)
        if address:
            said = Statement(channel, address, yes, event.timestamp_ms, event.event or "")
            state = contact.with_arrival(state, said)
    return state


def _is_hard(channel: str, p: _Properties) -> bool:
    """Whether it is of no use to try again. Of e-mail and push a bounce is, unless it says that it is not; a failed
    message of another channel only if it says so."""
    if isinstance(p.permanent, bool):
        return p.permanent
    words = {w.lower().replace("_", "").replace("-", "")[:20] for w in (p.bounce_type, p.severity, p.type)
             if isinstance(w, str)}  # fmt: skip
    if words & SOFT:
        return False
    return channel in ("email", "webpush") or bool(words & HARD)
