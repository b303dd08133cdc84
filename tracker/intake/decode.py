"""First and last step: bytes -> Wire -> the bytes of an Event. What is not looked into passes through as it came."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw

from tracker.contract.events import CHANNELS
from tracker.intake.channel import OTHER
from tracker.intake.draft import NO_BYTES, Call, Draft, UsualWire, Wire
from tracker.rejections import EVENT_TOO_LARGE, INVALID_JSON, TOO_DEEP, WRONG_TYPE, Refusal, refuse

_usual = msgspec.json.Decoder(UsualWire)
_wire = msgspec.json.Decoder(Wire)
_object = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode
_OPEN: Final = 0x7B  # {
MAX_FINDINGS_BYTES: Final = 4096
"""What the endpoint adds to an event is shorter: campaign and click ids are the most of it."""


def read_event(original: bytes, max_event_bytes: int) -> Wire | Refusal:
    if len(original) > max_event_bytes:
        return refuse(EVENT_TOO_LARGE, f"{len(original)} bytes; the limit is {max_event_bytes}")
    try:
        try:
            return _usual.decode(original)
        except msgspec.ValidationError:
            return _wire.decode(original)
    except msgspec.ValidationError as e:
        return refuse(WRONG_TYPE, str(e))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return refuse(INVALID_JSON, str(e))
    except RecursionError:
        return refuse(TOO_DEEP)


def open_parts(draft: Draft, call: Call) -> Refusal | None:
    """The parts that are passed through: objects, with what the batch says for all."""
    wire = draft.wire
    if wire.properties is not UNSET:
        draft.properties = bytes(wire.properties)
        if draft.properties[0] != _OPEN:
            draft.properties = NO_BYTES
            if (bad := _drop_null(wire, "properties")) is not None:
                return bad
    if wire.context is not UNSET:
        draft.context = bytes(wire.context)
        if draft.context[0] != _OPEN:
            draft.context = NO_BYTES
            if (bad := _drop_null(wire, "context")) is not None:
                return bad
    if wire.traits is not UNSET and (bad := _drop_null(wire, "traits")) is not None:
        return bad
    if wire.integrations is not UNSET and (bad := _drop_null(wire, "integrations")) is not None:
        return bad
    if call.context is not UNSET:
        draft.context = bytes(call.context) if not draft.context else _merge(call.context, draft.context)
    if call.integrations is not UNSET:
        own = wire.integrations
        wire.integrations = call.integrations if own is UNSET else Raw(_merge(call.integrations, bytes(own)))
    return None


def _drop_null(wire: Wire, name: str) -> Refusal | None:
    """A part that is null is absent; anything but an object in its place is refused."""
    part = bytes(getattr(wire, name))
    if part[0] != _OPEN:
        if part != b"null":
            return refuse(WRONG_TYPE, f"Expected `object | null` - at `$.{name}`")
        setattr(wire, name, UNSET)
    return None


def _merge(under: Raw, over: bytes) -> bytes:
    """Two JSON objects -> one; where both have a field, that of `over` stands."""
    return _encode(_object.decode(under) | _object.decode(over))


def encode(draft: Draft, call: Call) -> None:
    """The Event: its fields that are found here, and behind them the Wire without those that are not written."""
    wire = draft.wire
    if not wire.message_id:
        # Made from the batch's id where it has one, so that a repeat of the batch repeats the ids.
        wire.message_id = f"{call.message_id}-{draft.index}" if call.message_id else call.make_id()
    wire.timestamp = wire.original_timestamp = wire.sent_at = None
    wire.write_key = wire.merge_properties = UNSET
    if not call.head:
        call.head = _head(call)
    draft.key = str(wire.anonymous_id or wire.user_id).encode()
    # A join takes half the time of formatting.
    draft.value = b"".join(
        (call.head, b"%d" % draft.timestamp_ms, _CHANNEL[draft.channel], draft.traffic, draft.visitor.written,
         _encode(wire)[1:])
    )  # fmt: skip


_CHANNEL: Final = {name: b',"channel":"%s",' % name.encode() for name in (*CHANNELS, OTHER)}


def _head(call: Call) -> bytes:
    fields = {"site": call.site, "source": call.source, "receivedAtMs": call.now_ms}
    if call.source == "client":  # the default
        del fields["source"]
    return _encode(fields)[:-1] + b',"timestampMs":'


def cap_size(draft: Draft, call: Call) -> Refusal | None:
    """A batch's context, merged into a small event, can make a large one of it."""
    if len(draft.value) > call.max_event_bytes + MAX_FINDINGS_BYTES:
        size = len(draft.value)
        draft.key = draft.value = NO_BYTES
        return refuse(EVENT_TOO_LARGE, f"{size} bytes with what the batch and the endpoint add to it")
    return None
