"""When two profiles turn out to be one person: the merge record, and the state that follows it through the log.

    Merge     in tracker.merges.v1, and in the loser's partition of tracker.profile-events.v1
    Unmerge   in the same two: they turned out to be two, after all
    Handover  in the winner's partition of tracker.profile-events.v1: a part of what was the loser's

A reader of profile-events tells the kinds of records by their first bytes: see CLOCK_PREFIX in events.py.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from tracker.contract.codec import uuid5
from tracker.contract.events import Place, Time

FORWARDED: Final = 2048
"""+ partition of profile-events: stands among the partitions of a record's `src` for what that one's owner sent on."""
MERGE_PREFIX: Final = b'{"mergeId":'
HANDOVER_PREFIX: Final = b'{"handover"'
UNMERGE_PREFIX: Final = b'{"unmergeId'


class Merge(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Two profiles of a site are one person. It may come more than once, under one id.

    In tracker.merges.v1 it is the history of who became whom; in tracker.profile-events.v1 it tells the loser's owner
    to hand its state over.
    """

    merge_id: Annotated[str, Meta(description="uuid5 of site, loser and winner.")]
    site: str
    winner: Annotated[str, Meta(description="The profile that stays: first seen earlier, else the smaller id.")]
    loser: Annotated[str, Meta(description="The profile that is no more: whoever has its id is sent to the winner.")]
    rule: Annotated[str, Meta(description="Types of the two ids that met, the stronger first: 'user_id+anonymous_id'.")]
    message_id: Annotated[str, Meta(description="The event that both ids came with.")]
    at_ms: Annotated[Time, Meta(description="When the endpoint received that event, ms.")]
    hops: Annotated[int, Meta(description="How often it was sent on, for the loser had been merged before.")] = 0


class Unmerge(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Some identifiers of a profile are another person's: they become a new profile's. From an operator (`tracker
    profile unmerge`), in both topics; in tracker.profile-events.v1 it tells the profile's owner."""

    unmerge_id: Annotated[str, Meta(description="Of this one; it may come more than once.")]
    site: str
    profile_id: Annotated[str, Meta(description="Whose identifiers they are.")]
    new_profile_id: Annotated[str, Meta(description="Whose they become: uuid5 of site and unmergeId.")]
    ids: Annotated[list[tuple[str, str]], Meta(description="[type, value], as in docs/identity.md.")]
    at_ms: Annotated[Time, Meta(description="When it was said, ms.")]
    hops: int = 0


class Piece(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A part of one field that is too large for one record."""

    name: str
    text: Annotated[str, Meta(description="The next characters of the field's JSON.")]
    last: bool = False


class Handover(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A part of a merged profile's state, on its way to the winner. `src` is what the receiver applies it once by: see
    ProfileEvent."""

    handover: Annotated[str, Meta(description="The merge's id.")]
    src: tuple[Place, Place, Place]
    site: str
    profile_id: Annotated[str, Meta(description="Whom it is for.")]
    loser: str
    fields: Annotated[dict[str, Raw], Meta(description="Fields of the profile's hash, as JSON.")] = {}
    piece: Piece | None = None
    hops: int = 0


_encode: Final = msgspec.json.Encoder().encode
decode_merge: Final = msgspec.json.Decoder(Merge).decode
"""Raises msgspec.DecodeError."""
decode_handover: Final = msgspec.json.Decoder(Handover).decode
"""Raises msgspec.DecodeError."""


def encode_merge(merge: Merge) -> bytes:
    return _encode(merge)


decode_unmerge: Final = msgspec.json.Decoder(Unmerge).decode
"""Raises msgspec.DecodeError."""


def encode_unmerge(unmerge: Unmerge) -> bytes:
    return _encode(unmerge)


def encode_handover(handover: Handover) -> bytes:
    return _encode(handover)


def split_profile_id(site: str, unmerge_id: str) -> str:
    """Of the profile that an unmerge makes."""
    return uuid5(f"{site}\0unmerge\0{unmerge_id}")


def merge_id(site: str, loser: str, winner: str) -> str:
    return uuid5(f"{site}\0merge\0{loser}\0{winner}")
