"""What becomes of a profile's state when it is merged into another: it goes to the winner through the log.

The loser's owner marks it as merged, sends its fields in parts to the winner's partition and drops them. From then on
whatever comes for the loser is sent on: events, other profiles' parts, merges. The winner takes each part over once,
for what one partition sends to another carries (FORWARDED + partition, offset, place), which rises like `src`.

All of it is in the fold, so it is part of the chunk's one step in Redis: sending is the outbox's. A chain of merges is
walked record by record. A field that is too large for a record goes in pieces, which the winner's hash keeps
(`arriving`) until the last one is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from stream.profile import ABOUT, ARRIVING, Profile, ProfileCodec, merge_about
from tracker.contract.events import ProfileEvent
from tracker.contract.merges import (
    FORWARDED,
    Handover,
    Merge,
    Piece,
    Unmerge,
    encode_handover,
    encode_merge,
    encode_unmerge,
)
from tracker.contract.topics import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

PART_BYTES: Final = 256 * 1024
ROOM_BYTES: Final = 2048
"""Of a part, for all but its fields."""
PIECE_CHARS: Final = 60_000
"""Characters of JSON in a piece: at most four bytes each, quotes and backslashes two."""
MAX_HOPS: Final = 64
"""A record sent on so often goes round in a circle: merges form none, but Redis may have lost some of them."""

Src = tuple[int, int, int]

_encode: Final = msgspec.json.Encoder().encode
_object: Final = msgspec.json.Decoder(dict[str, Raw])
_texts: Final = msgspec.json.Decoder(dict[str, str])


class Sent(Struct, frozen=True):
    """A record for another partition of profile-events."""

    profile_id: str
    """Its key."""
    value: bytes


class Sender:
    """Numbers what one record gives: (FORWARDED + partition, the record's offset, 0, 1, ...)."""

    def __init__(self, partition: int, offset: int) -> None:
        self._at = (FORWARDED + partition, offset)
        self._n = 0

    def src(self) -> Src:
        self._n += 1
        return (*self._at, self._n - 1)


def hand_over(profile: Profile, merge: Merge, codec: ProfileCodec, sender: Sender) -> Iterator[Sent]:
    """The parts of a loser's state. `profile` is not changed."""

    def part(fields: dict[str, Raw], piece: Piece | None = None) -> Sent:
        record = Handover(
            handover=merge.merge_id, src=sender.src(), site=merge.site, profile_id=merge.winner, loser=merge.loser,
            fields=fields, piece=piece,
        )  # fmt: skip
        return Sent(merge.winner, encode_handover(record))

    fields: dict[str, Raw] = {}
    size = 0
    for name, value in codec.fields(profile):
        if len(value) > PART_BYTES - ROOM_BYTES:
            text = value.decode()
            for at in range(0, len(text), PIECE_CHARS):
                last = at + PIECE_CHARS >= len(text)
                yield part({}, Piece(name=name, text=text[at : at + PIECE_CHARS], last=last))
            continue
        if size + len(value) > PART_BYTES - ROOM_BYTES:
            yield part(fields)
            fields, size = {}, 0
        fields[name] = Raw(value)
        size += len(value) + len(name) + 4
    if fields:
        yield part(fields)


def clear(profile: Profile, merge: Merge) -> None:
    """Leave nothing of a loser but where it went."""
    profile.about = None
    profile.states.clear()
    profile.arriving.clear()
    profile.broken.clear()
    profile.json_bytes.clear()
    profile.due_ms = None
    profile.merged_into = merge.winner


def sent_on(
    item: ProfileEvent | Handover | Merge | Unmerge, value: bytes | None, winner: str, sender: Sender
) -> Sent | None:
    """The record for a merged profile, for the winner; None when there is nothing more to do."""
    if isinstance(item, Merge):
        # Two merges of one loser, for Redis had lost the first: then the winners are one person, too.
        if item.winner == winner:
            return None
        record = msgspec.structs.replace(item, loser=winner, hops=item.hops + 1)
        return Sent(winner, encode_merge(record))
    if isinstance(item, Unmerge):
        return Sent(winner, encode_unmerge(msgspec.structs.replace(item, profile_id=winner, hops=item.hops + 1)))
    if isinstance(item, Handover):
        moved = msgspec.structs.replace(item, profile_id=winner, src=sender.src(), hops=item.hops + 1)
        return Sent(winner, encode_handover(moved))
    fields = _object.decode(value or b"")
    changed: dict[str, Any] = {"profileId": winner, "src": sender.src(), "hops": item.hops + 1}
    sent = _encode({**fields, **changed})
    if len(sent) > MAX_RECORD_BYTES:
        raise ValueError(f"the record has {len(sent)} bytes, at most {MAX_RECORD_BYTES} are sent on")
    return Sent(winner, sent)


def arrived(profile: Profile, part: Handover) -> Iterator[tuple[str, bytes]]:
    """(name, JSON) of the fields that are complete with this part. Keeps pieces in `profile`."""
    for name, raw in part.fields.items():
        yield name, bytes(raw)
    piece = part.piece
    if piece is None:
        return
    key = f"{part.loser}|{piece.name}"
    text = profile.arriving.get(key, "") + piece.text
    profile.changed.add(ARRIVING)
    if piece.last:
        profile.arriving.pop(key, None)
        yield piece.name, text.encode()
    else:
        profile.arriving[key] = text


def take_over(profile: Profile, name: str, value: bytes, codec: ProfileCodec) -> Any:
    """The loser's state of a signal, to be merged by it; its About, which has been; None when all is done.

    Raises Newer when a newer worker wrote it: this one must stop, not lose it; StateError, UNREADABLE when it is none,
    and nothing has been done.
    """
    text = value.decode()
    if name == ABOUT:
        other = codec.decode_about(text)
        profile.about = merge_about(profile.about, other)
        profile.changed.add(ABOUT)
        return other
    if name == ARRIVING:
        profile.arriving.update(_texts.decode(text))
        profile.changed.add(ARRIVING)
    elif (state := codec.decode_state(name, text, profile)) is not None:
        return state
    else:
        log.warning("A merged profile's field %s is no signal's that this worker knows", name)
    return None
