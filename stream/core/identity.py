"""Who an event says it is from: the identifiers in it, strongest first, and which of them are shown to be true.

An address typed into a form is a claim: if it linked profiles, anybody could join another's by typing it. It stays a
trait. What shows an address to be the person's own:

    login                identify or alias with a userId: the site's own account has it
    an order             it goes where the goods go (VERIFIED in tracker/contract/events.py)
    double opt-in        "Email Verified", "Phone Verified", said by a server with the secret key
    a click in the mail  reported with the secret key, by the provider of the mails
    nobody else          an event of the secret key with no id but the address is of whoever has the address

And which purchase it is a part of (`routes`): one order is one order, whoever reports it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from stream.core.parts import UNREADABLE, read_part
from tracker.contract.events import ROUTED, ROUTES, VERIFIED, EventHead, EventIds, decode_event_ids
from tracker.contract.ids import PRIORITY, Identifier, normal, usable, whole

LINKING: Final = frozenset(("identify", "alias"))
"""Types of calls that may say more about who somebody is than their ids."""
EXTERNAL: Final = frozenset(("email", "phone", "zalo_id", "viber_id", "push_token"))
"""Types that `context.externalIds` may name."""
MAX_EXTERNAL: Final = 16


class _Addresses(Struct):
    email: Any = None
    phone: Any = None


class _Device(Struct):
    token: Any = None


class Said(Struct, rename="camel"):
    """What an event's `context` says of ids."""

    traits: Raw | UnsetType = UNSET
    external_ids: Any = None
    device: Raw | UnsetType = UNSET


class _Routes(Struct, frozen=True):
    order_id: Any = None
    checkout_id: Any = None
    cart_id: Any = None


class _Purchase(Struct):
    properties: _Routes = _Routes()


_purchase: Final = msgspec.json.Decoder(_Purchase)
_addresses: Final = msgspec.json.Decoder(_Addresses)
_device: Final = msgspec.json.Decoder(_Device)
_context: Final = msgspec.json.Decoder(Said)


def identifiers(value: bytes, head: EventHead, country: str) -> tuple[Identifier, ...]:
    """The identifiers that an event's profile is found by; () = it is nobody's."""
    anonymous, user = usable(head.anonymous_id), usable(head.user_id)
    plain: list[Identifier] = []
    if user is not None:
        plain.append(("user_id", user))
    if anonymous is not None:
        plain.append(("anonymous_id", anonymous))
    if plain and head.type not in LINKING and head.event not in VERIFIED:
        return tuple(plain)
    try:
        more = decode_event_ids(value)
    except UNREADABLE:  # Of another shape than the endpoint's: what the head says is all.
        return tuple(plain)
    found = dict.fromkeys((*plain, *_others(head, more, user is not None, bool(plain), country)))
    return tuple(sorted(found, key=lambda id: PRIORITY[id[0]]))  # stable: of a type the first said goes first


def routes(value: bytes, head: EventHead) -> tuple[Identifier, ...]:
    """(name, value) of what names the purchase that an event is a part of. Of other events than those of a purchase
    nothing is read: 0.1 us."""
    if (
        head.event not in ROUTED
        or (b'"order_id"' not in value and b'"cart_id"' not in value and b'"checkout_id"' not in value)
    ):  # fmt: skip
        return ()
    try:
        said = _purchase.decode(value).properties
    except UNREADABLE:
        return ()
    found = []
    for name, given in zip(ROUTES, (said.order_id, said.checkout_id, said.cart_id), strict=True):
        if given is None:
            continue
        if isinstance(given, int | float) and not isinstance(given, bool):
            given = str(whole(given))
        if isinstance(given, str) and (id := usable(given.strip())) is not None:
            found.append((name, id))
    return tuple(found)


def _others(head: EventHead, more: EventIds, has_user: bool, has_id: bool, country: str) -> list[Identifier]:
    trusted = more.source == "import"
    found: list[Identifier] = []
    if head.type == "alias" and (previous := usable(more.previous_id)) is not None:
        found.append(("anonymous_id", previous))
        has_id = True
    context = read_context(more.context)
    for type, value in external_ids(context, trusted, country):
        found.append((type, value))
        has_id = True
    if has_user and head.type in ("identify", "alias"):
        types: tuple[str, ...] = ("email", "phone")
    elif (row := VERIFIED.get(head.event or "")) is not None and (trusted or not row[1]):
        types = row[0]
    elif trusted and not has_id:
        types = ("email", "phone")
    else:
        return found
    places = [more.traits, context.traits if context is not None else UNSET]
    if head.type == "track":
        places.append(more.properties)
    for place in places:
        said = read_part(_addresses, place)
        for type in types:
            given = getattr(said, type, None)
            if given is not None and (known := normal(type, given, country)) is not None:
                found.append((type, known))
    return found


def read_context(raw: Raw | UnsetType) -> Said | None:
    return read_part(_context, raw)


def external_ids(context: Said | None, trusted: bool, country: str) -> list[Identifier]:
    """`context.externalIds` of a server; the push token of the device itself, which nobody else knows."""
    if context is None:
        return []
    found: list[Identifier] = []
    device = read_part(_device, context.device)
    if device is not None and (token := normal("push_token", device.token, country)) is not None:
        found.append(("push_token", token))
    if not trusted or not isinstance(context.external_ids, list):
        return found
    for item in context.external_ids[:MAX_EXTERNAL]:
        if not isinstance(item, dict):
            continue
        type = item.get("type")
        if not isinstance(type, str) or type not in EXTERNAL:
            continue
        value = normal(type, item.get("id"), country)
        if value is not None and type in ("zalo_id", "viber_id"):
            # An id of one official account or bot: somebody else in the next.
            account = normal(type, item.get("collection"), country)
            value = usable(f"{account}/{value}") if account is not None else None
        if value is not None:
            found.append((type, value))
    return found
