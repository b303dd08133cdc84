"""Is it an event at all: its type, its sender, its name, and the bounds of what becomes a key."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from tracker.contract.events import EVENT_TYPES, MAX_ID_CHARS
from tracker.intake import json_rules, rudder
from tracker.intake.draft import MAX_TEXT_CHARS, Call, Draft, UsualWire, Wire
from tracker.rejections import (
    BAD_NUMBER,
    FIELD_TOO_LONG,
    MISSING_EVENT,
    MISSING_ID,
    UNKNOWN_TYPE,
    Refusal,
    refuse,
)

_IDS: Final = ("user_id", "anonymous_id", "group_id", "previous_id", "message_id")
_TYPES: Final = frozenset(EVENT_TYPES)


def check(draft: Draft, call: Call) -> Refusal | None:
    wire = draft.wire
    if call.type is not None:
        wire.type = call.type
    if wire.type != "track":
        wire.event = None  # a name on another call would be counted as a track event's
        if (refusal := _check_type(draft)) is not None:
            return refusal
    if wire.__class__ is not UsualWire and (refusal := _mend(wire)) is not None:
        return refusal
    if wire.user_id is None and wire.anonymous_id is None:
        return refuse(MISSING_ID)
    if wire.type == "track" and (not wire.event or wire.event.isspace()):
        return refuse(MISSING_EVENT)
    try:
        if draft.properties:
            json_rules.check(draft.properties)
        if wire.traits is not UNSET:
            json_rules.check(bytes(wire.traits))
        if wire.integrations is not UNSET:
            json_rules.check(bytes(wire.integrations))
    except json_rules.Bad as e:
        return refuse(e.rejection, e.detail)
    return None


def _check_type(draft: Draft) -> Refusal | None:
    wire = draft.wire
    if wire.type not in _TYPES:
        if wire.type != rudder.MERGE:
            return refuse(UNKNOWN_TYPE, "" if wire.type is None else f"'{wire.type[:40]}'")
        return rudder.identify_of_merge(wire) or _mend(wire)
    if wire.type == "identify" and wire.traits is UNSET:
        rudder.take_traits(draft)
    return None


def _mend(wire: Wire) -> Refusal | None:
    """What a UsualWire need not be asked. Numbers become texts, an empty text is no id."""
    for name, text in (("event", wire.event), ("name", wire.name), ("category", wire.category)):
        most = MAX_ID_CHARS if name == "event" else MAX_TEXT_CHARS
        if text is not None and len(text) > most:
            return refuse(FIELD_TOO_LONG, f"{name} has {len(text)} characters")
    for name in _IDS:
        value = getattr(wire, name)
        if value is None:
            continue
        if value.__class__ is not str:
            if not json_rules.MIN_INT <= value <= json_rules.MAX_INT:
                return refuse(BAD_NUMBER, f"{name} is no 64-bit integer")
            setattr(wire, name, value := str(value))
        if len(value) > MAX_ID_CHARS:
            return refuse(FIELD_TOO_LONG, f"{name} has {len(value)} characters")
        if not value:
            setattr(wire, name, None)
    return None
