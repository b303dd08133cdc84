"""How a person can be reached, and whether they want to be: addresses, consent, what bounced, which channel works best.

Everything is the last writer's by event time, so the order of arrival does not matter. A statement is about an address
of a channel, about a channel as a whole (address ""), or about all (channel ALL); of those that concern an address the
latest counts, at a tie the no. Where two profiles become one it is the most restrictive: a no of either stays a no
until the person says yes again.

The preferred channel is the one with the highest (clicks + 1) / (delivered + 20) of 90 days (domain: A408).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.durations import DAY_MS
from tracker.contract.ids import PRIORITY
from tracker.contract.triggers import Channel

ALL: Final = "*"

CHANNELS_OF: Final[dict[str, tuple[str, ...]]] = {
    "email": ("email",),
    "phone": ("sms", "zns"),
    "zalo_id": ("zalo",),
    "viber_id": ("viber",),
    "push_token": ("webpush",),
}
"""Type of an address -> the channels that go there. zns: Zalo's notifications to a phone number."""
TYPE_OF: Final[dict[str, str]] = {channel: type for type, channels in CHANNELS_OF.items() for channel in channels}
SILENCE_IS_YES: Final = frozenset(("email",))
"""Channels that may be used by a site whose consent is optional before the person has said anything: domain A315."""

MAX_ADDRESSES: Final = 5
"""Of a type; the latest, verified ones before claims."""
MAX_STATEMENTS: Final = 48
KEPT_DAYS: Final = 90
PRIOR_CLICKS: Final = 1
PRIOR_DELIVERED: Final = 20


class Address(Struct, frozen=True, omit_defaults=True):
    type: str
    """A type of CHANNELS_OF."""
    value: str
    """As tracker/contract/ids.py spells it; of zalo_id and viber_id ACCOUNT/ID."""
    said_ms: int
    verified: bool = False
    """It links profiles (docs/identity.md); else a claim."""


class Statement(Struct, frozen=True, omit_defaults=True):
    """A yes or no: to messages, or whether they arrive."""

    channel: str
    address: str
    """"" = the channel as a whole."""
    yes: bool
    ms: int
    by: str = ""
    """Name of the event."""

    @property
    def key(self) -> tuple[str, str]:
        return self.channel, self.address


class Day(Struct, frozen=True, omit_defaults=True):
    """Messages of a channel on a day (UTC)."""

    day: int
    delivered: int = 0
    clicked: int = 0


class Contacts(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `contact`."""

    addresses: tuple[Address, ...] = ()
    consents: tuple[Statement, ...] = ()
    arrives: tuple[Statement, ...] = ()
    """By address: no after a hard bounce, yes after a delivery."""
    sends: dict[str, tuple[Day, ...]] = {}
    """Channel -> its days, the last 90 up to the latest."""


NOBODY: Final = Contacts()


# -- what an event changes


def with_address(state: Contacts, new: Address) -> Contacts:
    known = next((a for a in state.addresses if (a.type, a.value) == (new.type, new.value)), None)
    if known is not None:
        new = replace(new, said_ms=max(new.said_ms, known.said_ms), verified=new.verified or known.verified)
        if new == known:
            return state
    return replace(state, addresses=_kept((*(a for a in state.addresses if a is not known), new)))


def _kept(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Strongest type first, then verified, then latest; at most MAX_ADDRESSES of a type."""
    kept: list[Address] = []
    for a in sorted(addresses, key=lambda a: (PRIORITY[a.type], not a.verified, -a.said_ms, a.value)):
        if sum(b.type == a.type for b in kept) < MAX_ADDRESSES:
            kept.append(a)
    return tuple(kept)


def with_consent(state: Contacts, said: Iterable[Statement]) -> Contacts:
    consents = put(state.consents, said)
    return state if consents is state.consents else replace(state, consents=consents)


def with_arrival(state: Contacts, said: Statement) -> Contacts:
    arrives = put(state.arrives, (said,))
    return state if arrives is state.arrives else replace(state, arrives=arrives)


def put(statements: tuple[Statement, ...], said: Iterable[Statement]) -> tuple[Statement, ...]:
    """With more of them: of each key the latest, at a tie the no."""
    by_key = {s.key: s for s in statements}
    changed = False
    for s in said:
        old = by_key.get(s.key)
        if old is None or _rank(s) > _rank(old):
            by_key[s.key] = s
            changed = True
    return _bounded(by_key.values()) if changed else statements


def _rank(s: Statement) -> tuple[int, bool, str]:
    return s.ms, not s.yes, s.by


def _bounded(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """At most MAX_STATEMENTS: first the oldest yes of an address goes, then its oldest no; those of channels stay."""
    kept = sorted(statements, key=lambda s: (bool(s.address), s.yes, -s.ms, s.channel, s.address))
    return tuple(sorted(kept[:MAX_STATEMENTS], key=lambda s: s.key))


def with_send(state: Contacts, channel: str, day: int, delivered: int, clicked: int) -> Contacts:
    days = _days((*state.sends.get(channel, ()), Day(day, delivered, clicked)))
    return replace(state, sends={**state.sends, channel: days})


def _days(days: Iterable[Day]) -> tuple[Day, ...]:
    """Sums by day, of the 90 days up to the latest."""
    sums: dict[int, tuple[int, int]] = {}
    for d in days:
        delivered, clicked = sums.get(d.day, (0, 0))
        sums[d.day] = delivered + d.delivered, clicked + d.clicked
    first = max(sums) - KEPT_DAYS
    return tuple(Day(day, *sums[day]) for day in sorted(sums) if day > first)


# -- what is known


def consent(statements: tuple[Statement, ...], channel: str, address: str) -> Statement | None:
    """What counts for an address: the latest of what was said of it, of its channel, of all; None = nothing was."""
    keys = ((channel, address), (channel, ""), (ALL, ""))
    return max((s for s in statements if s.key in keys), key=_rank, default=None)


def channels(state: Contacts, policy: str) -> list[Channel]:
    """Every way to reach the person. `policy`: the site's `triggers.consent`."""
    return list(_channels(state, policy))


def _channels(state: Contacts, policy: str) -> Iterator[Channel]:
    for a in state.addresses:
        account, slash, id = a.value.partition("/") if a.type in ("zalo_id", "viber_id") else ("", "", "")
        for channel in CHANNELS_OF[a.type]:
            said = consent(state.consents, channel, a.value)
            arrives = next((s for s in state.arrives if s.key == (channel, a.value)), None)
            gone = arrives is not None and not arrives.yes
            silence = policy == "ignore" or (policy == "optional" and channel in SILENCE_IS_YES)
            yield Channel(
                channel=channel,
                address=id if slash else a.value,
                account=account if slash else None,
                consent="unknown" if said is None else "granted" if said.yes else "denied",
                usable=not gone and (silence if said is None else said.yes),
                verified=a.verified,
                undeliverable=gone,
            )


def preferred(state: Contacts, at_ms: int) -> str | None:
    """The channel that the person answers best; none when no message arrived in 90 days. One that they said no to as a
    whole is out."""
    first = at_ms // DAY_MS - KEPT_DAYS
    best: tuple[float, int, str] | None = None
    for channel, days in state.sends.items():
        delivered = sum(d.delivered for d in days if first < d.day)
        clicked = sum(d.clicked for d in days if first < d.day)
        said = consent(state.consents, channel, "")
        if delivered == 0 or (said is not None and not said.yes):
            continue
        rate = (clicked + PRIOR_CLICKS) / (delivered + PRIOR_DELIVERED)
        found = (-rate, -delivered, channel)
        if best is None or found < best:
            best = found
    return best[2] if best is not None else None


# -- two profiles are one person


def merged(one: Contacts, other: Contacts) -> Contacts:
    addresses: dict[tuple[str, str], Address] = {}
    for a in (*one.addresses, *other.addresses):
        known = addresses.setdefault((a.type, a.value), a)
        addresses[a.type, a.value] = replace(
            a, said_ms=max(a.said_ms, known.said_ms), verified=a.verified or known.verified
        )
    return Contacts(
        addresses=_kept(addresses.values()),
        consents=_most_restrictive(one.consents, other.consents),
        arrives=put(one.arrives, other.arrives),
        sends={
            channel: _days((*one.sends.get(channel, ()), *other.sends.get(channel, ())))
            for channel in sorted({*one.sends, *other.sends})
        },
    )


def _most_restrictive(one: tuple[Statement, ...], other: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Of each key that either has: a no of either, as of the later of both times; a no to a channel is one to its
    addresses."""
    kept: list[Statement] = []
    for channel, address in {s.key for s in (*one, *other)}:
        said = [s for side in (one, other) if (s := consent(side, channel, address)) is not None]
        latest = max(said, key=lambda s: (not s.yes, _rank(s)))
        kept.append(Statement(channel, address, latest.yes, max(s.ms for s in said), latest.by))
    return _bounded(kept)
