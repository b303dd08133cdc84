"""When it happened: ts = receivedAt - (sentAt - originalTimestamp), which takes the client's clock out of it.

A time that can't be (before receivedAt - 7 d, after receivedAt + 5 min) becomes receivedAt and is counted. Imports with
the secret key keep any past time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import Final

from tracker.contract.durations import DAY_MS, MINUTE_MS
from tracker.intake.draft import Call, Draft
from tracker.rejections import BAD_TIMESTAMP, Refusal, refuse

MAX_PAST_MS: Final = 7 * DAY_MS
MAX_FUTURE_MS: Final = 5 * MINUTE_MS
MAX_CHARS: Final = 64


def put_time(draft: Draft, call: Call) -> Refusal | None:
    wire, now_ms = draft.wire, call.now_ms
    happened = wire.original_timestamp or wire.timestamp
    try:
        ts = parse_ms(happened) if happened else now_ms
        if wire.sent_at:
            draft.skew_ms = parse_ms(wire.sent_at) - now_ms
        elif call.sent_at:
            draft.skew_ms = _parse_again_ms(call.sent_at) - now_ms
        if happened and draft.skew_ms is not None:
            ts -= draft.skew_ms
    except ValueError as e:
        return refuse(BAD_TIMESTAMP, str(e))
    # Go's zero time, the year 1, says "not set"; nothing that is tracked happened before 1970.
    oldest = 0 if call.source == "import" else now_ms - MAX_PAST_MS
    if not oldest <= ts <= now_ms + MAX_FUTURE_MS:
        ts, draft.clamped = now_ms, True
    draft.timestamp_ms = ts
    return None


def parse_ms(text: str) -> int:
    """ISO 8601 -> ms since the epoch; without a zone it is UTC. Raises ValueError, which names the text."""
    try:
        if len(text) > MAX_CHARS:  # fractions may be of any length, and what was parsed is kept
            raise ValueError
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        # From whole seconds: as a difference of two datetimes it takes half as long again.
        return floor(moment.timestamp()) * 1000 + (moment.microsecond + 500) // 1000
    except (ValueError, OverflowError):
        raise ValueError(f"'{text[:40]}' is no ISO 8601 time") from None


_parse_again_ms = lru_cache(64)(parse_ms)
"""For a batch's sentAt, which every item of the batch asks for."""
