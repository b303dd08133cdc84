"""Parts of an event that came through as the client wrote them: nothing in them is trusted, and nothing raises."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

T = TypeVar("T")


def read_part(decoder: msgspec.json.Decoder[T], raw: Raw | UnsetType) -> T | None:
    """What the part says; None when it is missing, or of another shape than `decoder` reads."""
    if raw is UNSET:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
