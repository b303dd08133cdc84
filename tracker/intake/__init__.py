"""What happens to one event between HTTP and Kafka: a tuple of pure steps over a draft.

A step reads and completes the draft and returns None, or a named refusal that ends it. No clock, no I/O, no randomness:
the time and the maker of ids come with the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracker.intake.campaign import put_campaign
from tracker.intake.channel import put_channel
from tracker.intake.check import check
from tracker.intake.context import read_context, read_page
from tracker.intake.decode import cap_size, decode, encode, read_event
from tracker.intake.device import flag_bot, put_device
from tracker.intake.draft import UNREAD, Call, Draft, Policy, Wire
from tracker.intake.names import map_names
from tracker.intake.policy import policy_of
from tracker.intake.privacy import apply_consent, put_ip
from tracker.intake.time import put_time
from tracker.rejections import Refusal

Step = Callable[[Draft, Call], Refusal | None]

STEPS: Final[tuple[Step, ...]] = (
    decode,
    check,
    map_names,
    put_time,
    read_context,
    read_page,
    put_campaign,
    put_channel,
    put_device,
    flag_bot,
    put_ip,
    apply_consent,
    encode,
    cap_size,
)


def take(original: bytes, call: Call, index: int = 0, wire: Wire = UNREAD) -> tuple[Draft, Refusal | None]:
    """One event's bytes as the client sent them -> the draft; it has the record's key and value if it is not refused.

    `index`: the event's place in its batch. `wire`: what `read_event` made of the bytes, where that was needed before.
    """
    draft = Draft(original, index, wire)
    for step in STEPS:
        if (refusal := step(draft, call)) is not None:
            return draft, refusal
    return draft, None


__all__ = ["STEPS", "Call", "Draft", "Policy", "policy_of", "read_event", "take"]
