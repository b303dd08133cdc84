"""What scripts are told and answer: msgpack, as Redis's cmsgpack knows it."""

from __future__ import annotations

import msgspec

packb = msgspec.msgpack.Encoder().encode
unpackb = msgspec.msgpack.Decoder().decode


def binary(data: bytes) -> msgspec.Raw:
    """Bytes inside a script's argument: as msgpack's str, for Redis's cmsgpack knows no bin."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)
