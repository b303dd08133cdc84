"""Which messages somebody got and opened, for ten weeks: each once, with the day on which it came. Pure.

A message's opening counts for the day of its delivery, whenever it comes, so a message of yesterday is not held against
a person who opens it tomorrow for longer than that. Of each message the earliest day and whether it was opened are
kept, so any order of events, and of repeats of them, gives the same.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from stream.core.falling import Level, Series
from tracker.contract.windows import Zone

RECENT_D: Final = 14
BEFORE_D: Final = 56
KEPT_D: Final = RECENT_D + BEFORE_D
MAX_MESSAGES: Final = 100


class Message(Struct, frozen=True, array_like=True, order=True):
    day: int
    """Local day of its delivery, since the epoch: of the first that was heard of it."""
    id: str
    opened: bool


Messages = tuple[Message, ...]
"""Sorted."""


def heard(messages: Messages, day: int, id: str, opened: bool) -> Messages:
    """With what was heard of one."""
    for known in messages:
        if known.id == id and known.day <= day and (known.opened or not opened):
            return messages
    return merged(messages, (Message(day, id, opened),))


def merged(one: Messages, other: Messages) -> Messages:
    by_id: dict[str, Message] = {}
    for m in (*one, *other):
        known = by_id.get(m.id)
        by_id[m.id] = m if known is None else Message(min(m.day, known.day), m.id, m.opened or known.opened)
    kept = sorted(by_id.values())[-MAX_MESSAGES:]
    return tuple(m for m in kept if m.day > kept[-1].day - KEPT_D)


def series(messages: Messages, zone: Zone) -> Series:
    """The share of messages that were opened."""

    def level(day: int) -> Level | None:
        recent = [m.opened for m in messages if day - RECENT_D <= m.day < day]
        before = [m.opened for m in messages if day - KEPT_D <= m.day < day - RECENT_D]
        if not recent or not before:
            return None
        return Level(sum(recent) / len(recent), sum(before) / len(before), len(before))

    return Series(sorted({m.day for m in messages}), RECENT_D, (RECENT_D + 1, KEPT_D + 1), level, zone)
