"""What happens to one event between HTTP and Kafka: a tuple of pure steps over a draft.

A step reads and completes the draft and returns None, or a named refusal that ends it. No clock, no I/O, no randomness:
the time and the maker of ids come with the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracker.intake.channel import put_channel
from tracker.intake.check import check
from tracker.intake.decode import cap_size, encode, open_parts, read_event
from tracker.intake.draft import NOBODY, UNREAD, Call, Draft, Policy, Wire
from tracker.intake.names import map_names
from tracker.intake.policy import policy_of
from tracker.intake.time import put_time
from tracker.intake.visitor import VISITOR_STEPS, put_visitor
from tracker.rejections import Refusal

Step = Callable[[Draft, Call], Refusal | None]

STEPS: Final[tuple[Step, ...]] = (
    open_parts,
    check,
    map_names,
    put_time,
    put_visitor,
    put_channel,
    encode,
    cap_size,
)


def take(event: bytes | Wire | Refusal, call: Call, index: int = 0) -> tuple[Draft, Refusal | None]:
    """One event -> the draft; it has the record's key and value if it is not refused.

    `event`: its bytes as the client sent them, or what `read_event` has made of them. `index`: its place in its batch.
    """
    wire = read_event(event, call.max_event_bytes) if isinstance(event, bytes) else event
    if isinstance(wire, Refusal):
        return Draft(UNREAD, index), wire
    draft = Draft(wire, index, NOBODY)  # at half the price of the default, which is a call
    for step in STEPS:
        if (refusal := step(draft, call)) is not None:
            return draft, refusal
    return draft, None


__all__ = ["STEPS", "VISITOR_STEPS", "Call", "Draft", "Policy", "policy_of", "read_event", "take"]
