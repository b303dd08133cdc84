"""First and last step: bytes -> Wire -> the bytes of an Event. What is not looked into passes through as it came."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tracker.contract.events import Event
from tracker.intake.draft import Call, Draft, Wire
from tracker.rejections import EVENT_TOO_LARGE, INVALID_JSON, TOO_DEEP, WRONG_TYPE, Refusal, refuse

_wire = msgspec.json.Decoder(Wire)
_object = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode
_event: Any = Event
"""Not checked by mypy: `check` has made texts of the ids and a known one of the type; a cast takes 0.1 us each."""
_OPEN: Final = 0x7B  # {


def decode(draft: Draft, call: Call) -> Refusal | None:
    if len(draft.original) > call.max_event_bytes:
        return refuse(EVENT_TOO_LARGE, f"{len(draft.original)} bytes; the limit is {call.max_event_bytes}")
    try:
        wire = draft.wire = _wire.decode(draft.original)
    except msgspec.ValidationError as e:
        return refuse(WRONG_TYPE, str(e))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return refuse(INVALID_JSON, str(e))
    except RecursionError:
        return refuse(TOO_DEEP)
    if not (_is_object(wire.properties) and _is_object(wire.traits) and _is_object(wire.context)):
        for name in ("properties", "traits", "context"):
            if not _is_object(part := getattr(wire, name)):
                if bytes(part) != b"null":
                    return refuse(WRONG_TYPE, f"Expected `object | null` - at `$.{name}`")
                setattr(wire, name, UNSET)
    if call.context is not UNSET:
        wire.context = call.context if wire.context is UNSET else _merge(call.context, wire.context)
    return None


def _is_object(part: Raw | UnsetType) -> bool:
    return part is UNSET or memoryview(part)[0] == _OPEN


def _merge(under: Raw, over: Raw) -> Raw:
    """Two JSON objects -> one; where both have a field, that of `over` stands."""
    return Raw(_encode(_object.decode(under) | _object.decode(over)))


def encode(draft: Draft, call: Call) -> None:
    wire = draft.wire
    message_id = wire.message_id
    if not message_id:
        # Made from the batch's id where it has one, so that a repeat of the batch repeats the ids.
        message_id = wire.message_id = f"{call.message_id}-{draft.index}" if call.message_id else call.make_id()
    draft.key = str(wire.anonymous_id or wire.user_id).encode()
    draft.value = _encode(
        _event(
            site=call.site,
            type=wire.type,
            message_id=message_id,
            timestamp_ms=draft.timestamp_ms,
            received_at_ms=call.now_ms,
            channel=draft.channel,
            source=call.source,
            event=wire.event,
            name=wire.name,
            category=wire.category,
            user_id=wire.user_id,
            anonymous_id=wire.anonymous_id,
            group_id=wire.group_id,
            previous_id=wire.previous_id,
            properties=wire.properties,
            traits=wire.traits,
            context=wire.context,
        )
    )
