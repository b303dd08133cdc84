"""Parts of an event that came through as the client wrote them: nothing in them is trusted, and nothing raises."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

T = TypeVar("T")

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: of bytes that are no JSON or of another shape, of text that is no UTF-8 (which msgspec looks at
only where it decodes, not where it skips), of what is nested too deep."""


def read_part(decoder: msgspec.json.Decoder[T], raw: Raw | UnsetType) -> T | None:
    """What the part says; None when it is missing, or of another shape than `decoder` reads."""
    if raw is UNSET:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        return None
