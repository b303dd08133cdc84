"""Records of profile-events, decoded: what a chunk says, and which profiles it touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from stream.core.parts import UNREADABLE
from stream.handover import Sender
from tracker.contract.events import CLOCK_PREFIX, ProfileEvent, decode_clock, decode_profile_event
from tracker.contract.merges import (
    HANDOVER_PREFIX,
    MERGE_PREFIX,
    UNMERGE_PREFIX,
    Handover,
    Merge,
    Unmerge,
    decode_handover,
    decode_merge,
    decode_unmerge,
)
from tracker.contract.models import MODEL_PREFIX, Model, decode_model

Item = ProfileEvent | Merge | Unmerge | Handover | Model | int
"""What a record says; an int is a clock record's time, ms."""


class Poison(Struct, frozen=True):
    """A record that could not be used: its index in the chunk, why, and in what words."""

    index: int
    reason: str
    detail: str


class Decoded(Struct):
    """A chunk's records, decoded. `items`: (index, what it says)."""

    items: list[tuple[int, Item]]
    profiles: set[tuple[str, str]]
    """(site, profile id) of all but clock records; of a merge the loser."""
    clock_ms: int | None
    """The latest clock record of the chunk."""
    poison: list[Poison]
    values: Sequence[bytes | None] = ()
    partition: int = 0
    offsets: Sequence[int] = ()
    """Where the records stand; () = at their indexes."""
    moves: int = 0
    """Merges and handovers."""
    unmerges: Sequence[Unmerge] = ()

    def sender(self, index: int) -> Sender:
        """Where a record stands, for what follows from it in other partitions."""
        return Sender(self.partition, self.offsets[index] if self.offsets else index)


def decode(values: Sequence[bytes | None], partition: int = 0, offsets: Sequence[int] = ()) -> Decoded:
    """Decode a chunk's values; what is none of a profile-events record's kinds becomes poison."""
    items: list[tuple[int, Item]] = []
    profiles: set[tuple[str, str]] = set()
    poison: list[Poison] = []
    clock: int | None = None
    moves = 0
    unmerges: list[Unmerge] = []
    add, append = profiles.add, items.append
    for index, value in enumerate(values):
        try:
            if value is None:
                poison.append(Poison(index, "not_an_event", "the record has no value"))
                continue
            kind = value[:11]
            if kind not in _OTHERS:
                event = decode_profile_event(value)
                add((event.site, event.profile_id))
                append((index, event))
            elif kind == CLOCK_PREFIX:
                t = decode_clock(value)
                clock = t if clock is None else max(clock, t)
                append((index, t))
            elif kind == MERGE_PREFIX:
                merge = decode_merge(value)
                add((merge.site, merge.loser))
                append((index, merge))
                moves += 1
            elif kind == UNMERGE_PREFIX:
                unmerge = decode_unmerge(value)
                add((unmerge.site, unmerge.profile_id))
                append((index, unmerge))
                unmerges.append(unmerge)
            elif kind == MODEL_PREFIX:
                append((index, decode_model(value)))
            else:
                part = decode_handover(value)
                add((part.site, part.profile_id))
                append((index, part))
                moves += 1
        except UNREADABLE as e:
            poison.append(Poison(index, "not_an_event", str(e)))
    return Decoded(items, profiles, clock, poison, values, partition, offsets, moves, unmerges)


_OTHERS: Final = frozenset((CLOCK_PREFIX, MERGE_PREFIX, UNMERGE_PREFIX, HANDOVER_PREFIX, MODEL_PREFIX))
"""How records that are no events begin."""
