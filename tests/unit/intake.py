"""What the tests of the intake share: an event in, what became of it out."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from tracker.contract.events import Event
from tracker.intake import Call, Draft, take
from tracker.rejections import Refusal

NOW_MS = 1_795_323_600_000
MAX_EVENT_BYTES = 32 * 1024

decode_event = msgspec.json.Decoder(Event).decode


def call(**fields: Any) -> Call:
    ids = itertools.count()
    defaults = {
        "site": "shop", "source": "client", "now_ms": NOW_MS, "make_id": lambda: f"made-{next(ids)}",
        "max_event_bytes": MAX_EVENT_BYTES, "type": "track",
    }  # fmt: skip
    return Call(**{**defaults, **fields})


def draft_of(message: dict[str, Any] | bytes, **fields: Any) -> tuple[Draft, Refusal | None]:
    raw = message if isinstance(message, bytes) else json.dumps(message, ensure_ascii=False).encode()
    return take(raw, call(**fields))


def taken(message: dict[str, Any] | bytes, **fields: Any) -> Event:
    draft, refusal = draft_of(message, **fields)
    assert refusal is None, refusal
    return decode_event(draft.value)


def refused(message: dict[str, Any] | bytes, **fields: Any) -> str:
    _, refusal = draft_of(message, **fields)
    assert refusal is not None
    return refusal.rejection.name


def track(**fields: Any) -> dict[str, Any]:
    return {"event": "Product Viewed", "userId": "u1", **fields}


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def inside(part: msgspec.Raw | msgspec.UnsetType) -> Any:
    """What a part of an event says that is passed through unread."""
    assert part is not msgspec.UNSET
    return json.loads(bytes(part))
