"""Which channel an event belongs to: what it says itself, else what its name says, else `site`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tracker.contract.events import CHANNELS, MESSAGE_ACTIONS
from tracker.intake.draft import Call, Draft

OTHER: Final = "other"

PREFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("Popup ", "popup"),
    ("Web Push ", "webpush"),
    ("Push Notification ", "webpush"),
    ("Email ", "email"),
    ("SMS ", "sms"),
    ("Zalo ", "zalo"),
    ("Viber ", "viber"),
    ("Social ", "social"),
    ("Ad ", "ads"),
    ("Store ", "store"),
    ("Call ", "call"),
    ("Form ", "form"),
)
"""Start of a track event's name -> channel."""

_BY_NAME: Final = {name: channel for name, (channel, _) in MESSAGE_ACTIONS.items() if channel is not None}
_CLOSED: Final = frozenset(CHANNELS)


class _Channel(Struct):
    channel: Any = None


_channel = msgspec.json.Decoder(_Channel)


def put_channel(draft: Draft, call: Call) -> None:
    wire, said = draft.wire, None
    if b'"channel"' in draft.original or call.context is not UNSET:
        said = _said(wire.context) or _said(wire.properties)
    if said is not None:
        draft.channel = said if said in _CLOSED else OTHER
    elif wire.event is not None:
        draft.channel = _by_name(wire.event)
    else:
        draft.channel = "site"


def _said(part: Raw | UnsetType) -> str | None:
    if part is UNSET:
        return None
    said = _channel.decode(part).channel
    return said.strip().lower() if isinstance(said, str) and said.strip() else None


@lru_cache(1024)
def _by_name(event: str) -> str:
    if (channel := _BY_NAME.get(event)) is not None:
        return channel
    for prefix, channel in PREFIXES:
        if event.startswith(prefix):
            return channel
    return "site"
