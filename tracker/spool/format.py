"""A segment of the spool: bytes <-> records. Pure.

    segment  HEADER, then frames
    frame    SYNC (4 bytes, the version in the last), length of the body (u32), xxh3-64 of the body seeded with the
             length (u64), body; integers are little-endian
    body     timestamp_ms (i64), partition (i32), length of the key (i32; -1: none), length of the topic (u16), topic,
             key, value

Damage costs the records that it lies in and no others: after a frame that does not check, reading goes on at the next
SYNC. That is no part of valid UTF-8, so nothing that a client sends can look like the begin of a frame. A later version
has another SYNC: what reads this version sets its frames aside as unknown bytes, and invents nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

HEADER: Final = b"tracker spool 1\n"
SYNC: Final = b"\xff\xfeT1"
MAX_BODY_BYTES: Final = 64 << 20
"""A longer one is damage: the length is not worth reading that far."""

_frame: Final = Struct("<4sIQ")
_body: Final = Struct("<qiiH")
FRAME_OVERHEAD: Final = _frame.size + _body.size
"""Bytes of a frame besides topic, key and value."""


class Record(NamedTuple):
    topic: str
    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes


def encode(topic: bytes, partition: int, timestamp_ms: int, key: bytes | None, value: bytes) -> bytes:
    """A frame. 0.7 us for 600 bytes."""
    if key is None:
        body = _body.pack(timestamp_ms, partition, -1, len(topic)) + topic + value
    else:
        body = b"".join((_body.pack(timestamp_ms, partition, len(key), len(topic)), topic, key, value))
    length = len(body)
    return _frame.pack(SYNC, length, xxh3_64_intdigest(body, length)) + body


def read(data: bytes, start: int = 0, final: bool = True) -> Iterator[tuple[int, int, Record | None]]:
    """(begin, end, record) for each whole record of `data` from `start`; None for bytes that are none.

    `final`: nothing follows on `data`. If not, it stops before an end that may be the first part of a record.
    """
    size, at = len(data), start
    while at < size:
        end, record = _record(data, at)
        if record is not None:
            yield at, end, record
            at = end
            continue
        if not final and end > size:  # it may be a whole one with what follows
            return
        # A SYNC may be cut in two by the end of what is there: its first bytes are no gap yet.
        after = data.find(SYNC, at + 1)
        if after < 0:
            after = size if final else max(at, size - len(SYNC) + 1)
        if after > at:
            yield at, after, None
        if not final and after + len(SYNC) > size:
            return
        at = after


def _record(data: bytes, at: int) -> tuple[int, Record | None]:
    """The record that begins at `at`, and where it ends: beyond the data if that is too short for it."""
    start = at + _frame.size
    if start > len(data):
        return (start if SYNC.startswith(data[at : at + len(SYNC)]) else at), None
    sync, length, check = _frame.unpack_from(data, at)
    if sync != SYNC or not _body.size <= length <= MAX_BODY_BYTES:
        return at, None
    end = start + length
    if end > len(data):
        return end, None
    body = data[start:end]
    if xxh3_64_intdigest(body, length) != check:
        return at, None
    timestamp_ms, partition, key_size, topic_size = _body.unpack_from(body)
    key_at = _body.size + topic_size
    value_at = key_at + max(0, key_size)
    try:
        topic = body[_body.size : key_at].decode()
    except UnicodeDecodeError:
        return at, None
    if value_at > length:
        return at, None
    return end, Record(
        topic, partition, timestamp_ms, body[key_at:value_at] if key_size >= 0 else None, body[value_at:]
    )
