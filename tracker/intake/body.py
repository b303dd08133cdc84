"""A request's body before its events are looked at: compression, text, the batch around the events."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sized
from typing import Final

import cramjam
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tracker.contract.events import MAX_ID_CHARS
from tracker.intake import json_rules
from tracker.intake.decode import read_event
from tracker.intake.draft import UsualWire, Wire
from tracker.rejections import (
    BAD_COMPRESSION,
    FIELD_TOO_LONG,
    INVALID_BATCH,
    INVALID_JSON,
    REQUEST_TOO_LARGE,
    TOO_DEEP,
    TOO_MANY_EVENTS,
    UNSUPPORTED_ENCODING,
    Refusal,
    refuse,
)

GZIP_MAGIC: Final = b"\x1f\x8b"
_STEP: Final = 64 * 1024


class Around(Struct, rename="camel", kw_only=True):
    """What stands around the events of a batch."""

    write_key: str | None = None
    sent_at: str | None = None
    message_id: str | None = None
    context: Raw | UnsetType = UNSET
    integrations: Raw | UnsetType = UNSET


class _Usual(Around, kw_only=True):
    batch: list[UsualWire]


class _Raws(Around, kw_only=True):
    batch: list[Raw]


class Batch:
    __slots__ = ("_body", "_originals", "around", "events")

    def __init__(self, around: Around, events: list[Wire | Refusal], body: bytes) -> None:
        self.around = around
        self.events = events
        """As far as they could be read."""
        self._body = body
        self._originals: list[Raw] = []

    def original(self, index: int) -> bytes:
        """An event's bytes as they came. Looked for when they are asked for: of most batches nobody wants them."""
        if not self._originals:
            self._originals = _raws.decode(self._body).batch
        return bytes(self._originals[index])


class _Key(Struct, rename="camel"):
    write_key: str | None = None


_usual = msgspec.json.Decoder(_Usual)
_raws = msgspec.json.Decoder(_Raws)
_key = msgspec.json.Decoder(_Key)
_text = msgspec.json.Decoder(str)


def inflate(body: bytes, encoding: str, cap: int) -> bytes | Refusal:
    """The body without its compression, never more than `cap` bytes of it in memory.

    Gzip is known by its first bytes too: some clients send it under a wrong name or none.
    """
    if body.startswith(GZIP_MAGIC):
        wbits = 16 + zlib.MAX_WBITS
    elif encoding in ("", "identity", "gzip", "x-gzip"):  # gzip that is none: a proxy has inflated it already
        return body
    elif (unpack := _UNPACK.get(encoding)) is not None:
        return _inflate_whole(body, unpack, cap)
    elif encoding == "deflate":  # in a zlib wrapper, as the RFC says, or bare, as some send it
        wbits = zlib.MAX_WBITS if len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0 else -15
    else:
        return refuse(UNSUPPORTED_ENCODING, f"'{encoding[:40]}'")
    stream, out, size = zlib.decompressobj(wbits), [], 0
    try:
        while not stream.eof:
            part = stream.decompress(body, min(_STEP, cap + 1 - size))
            if not part and not stream.eof:
                return refuse(BAD_COMPRESSION, "the stream ends early")
            out.append(part)
            size += len(part)
            if size > cap:
                return refuse(REQUEST_TOO_LARGE, f"more than {cap} bytes decompressed")
            body = stream.unconsumed_tail
    except zlib.error as e:
        return refuse(BAD_COMPRESSION, str(e))
    if stream.unused_data:
        return refuse(BAD_COMPRESSION, "there is something behind the stream")
    return b"".join(out)


def _inflate_whole(body: bytes, unpack: Callable[[bytes, bytearray], int], cap: int) -> bytes | Refusal:
    """br and zstd: straight into a buffer of at most a byte more than the cap, which bounds what they may take."""
    try:
        try:
            out = bytearray(min(_STEP, cap + 1))
            size = unpack(body, out)
        except cramjam.DecompressionError as e:
            if _FULL not in str(e):
                raise
            out = bytearray(cap + 1)
            size = unpack(body, out)
        inflated = bytes(memoryview(out)[:size])
        if unpack is cramjam.brotli.decompress_into and _whole(body[:-1], out):
            return refuse(BAD_COMPRESSION, "there is something behind the stream")
    except cramjam.DecompressionError as e:
        if _FULL not in str(e):
            return refuse(BAD_COMPRESSION, str(e))
        size = cap + 1
    return inflated if size <= cap else refuse(REQUEST_TOO_LARGE, f"more than {cap} bytes decompressed")


def _whole(body: bytes, out: bytearray) -> bool:
    """Is it a whole stream of brotli? So is one with more behind it, less a byte; cramjam tells neither."""
    try:
        cramjam.brotli.decompress_into(body, out)
    except cramjam.DecompressionError:
        return False
    return True


_FULL: Final = "whole buffer"
"""In cramjam's message when the buffer is too short."""
_UNPACK: Final[dict[str, Callable[[bytes, bytearray], int]]] = {
    "br": cramjam.brotli.decompress_into,
    "zstd": cramjam.zstd.decompress_into,
}


_escape = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\[^u]", re.DOTALL
)


def mend(body: bytes) -> bytes:
    r"""Half surrogate pairs (\ud83d alone: a text cut in the middle of an emoji) become U+FFFD, as in every browser.

    Otherwise one such text would make the JSON of a whole batch invalid.
    """
    if b"\\" not in body or (b"\\ud" not in body and b"\\uD" not in body):
        return body
    return _escape.sub(lambda m: b"\\ufffd" if len(m[0]) == 6 else m[0], body)


def read_text(body: bytes) -> bytes | Refusal:
    """The body as UTF-8 that every later reader can decode."""
    if not body.isascii():
        if body.startswith(b"\xef\xbb\xbf"):
            body = body[3:]
        try:
            body.decode()
        except UnicodeDecodeError as e:
            return refuse(INVALID_JSON, f"no UTF-8 at byte {e.start}")
    return mend(body)


def read_batch(body: bytes, max_event_bytes: int, cap: int, max_events: int) -> Batch | Refusal:
    """All events in one go, at half the price of one by one; if one of them is unusual or too large, one by one.

    `cap`: bytes that the batch's context and integrations may have in all when each of its events has got them.
    """
    events: list[Wire | Refusal]
    try:
        raws = _raws.decode(body) if len(body) > max_event_bytes else None
        if raws is not None and len(raws.batch) > max_events:
            return _too_many(raws.batch, max_events)
        try:
            if raws is not None and any(len(raw) > max_event_bytes for raw in raws.batch):
                raise msgspec.ValidationError
            around: Around = (usual := _usual.decode(body))
            events = [*usual.batch]
        except msgspec.ValidationError:
            around = raws = raws or _raws.decode(body)
            if len(raws.batch) > max_events:
                return _too_many(raws.batch, max_events)
            events = [read_event(bytes(raw), max_event_bytes) for raw in raws.batch]
    except msgspec.ValidationError as e:
        return refuse(INVALID_BATCH, str(e))
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        return refuse(INVALID_JSON, str(e))
    except RecursionError:
        pruned = _pruned(body)
        return refuse(TOO_DEEP) if pruned is None else read_batch(pruned, max_event_bytes, cap, max_events)
    if len(events) > max_events:
        return _too_many(events, max_events)
    if (given := around.message_id) and len(f"{given}-{len(events) - 1}") > MAX_ID_CHARS:
        return refuse(FIELD_TOO_LONG, f"the batch's messageId has {len(given)} characters")
    for name, part in (("context", around.context), ("integrations", around.integrations)):
        if part is not UNSET and not bytes(part).startswith(b"{"):
            if bytes(part) != b"null":
                return refuse(INVALID_BATCH, f"Expected `object | null` - at `$.{name}`")
            setattr(around, name, UNSET)
        elif part is not UNSET and len(part) * len(events) > cap:
            return refuse(REQUEST_TOO_LARGE, f"{name} of {len(part)} bytes for {len(events)} events")
    return Batch(around, events, body)


_token = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL).finditer
KEPT_LEVELS: Final = 2 * json_rules.MAX_DEPTH
"""Enough for the event to be refused for its depth."""


def _pruned(body: bytes) -> bytes | None:
    """A batch without what is nested deeper than any reader goes, so that one such event does not cost the others: it
    is refused for its depth, and so much of it stands in its dead letter. None: not every bracket is closed.
    """
    parts, level, begin = [], 0, 0
    for found in _token(body):
        first = body[found.start()]
        if first in b"[{":
            level += 1
            if level == KEPT_LEVELS:
                parts += [body[begin : found.start()], b"0"]
        elif first in b"]}":
            if level == KEPT_LEVELS:
                begin = found.end()
            level -= 1
    return None if level else b"".join([*parts, body[begin:]])


def _too_many(events: Sized, most: int) -> Refusal:
    return refuse(TOO_MANY_EVENTS, f"{len(events)} events; the limit is {most}")


def text_of(part: Raw | UnsetType) -> str | None:
    """A JSON string's text; None for anything else."""
    try:
        return None if part is UNSET else _text.decode(part)
    except msgspec.DecodeError:
        return None


def read_key(body: bytes) -> str | None:
    """The writeKey in the body of an event that can't be read otherwise, if there is one that can."""
    if b'"writeKey"' not in body:
        return None
    try:
        return _key.decode(body).write_key
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
