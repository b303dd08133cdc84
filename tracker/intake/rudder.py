"""What RudderStack's clients say in their own way, said in Segment's."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from tracker.intake.draft import Draft, Wire
from tracker.rejections import WRONG_TYPE, Refusal, refuse

MERGE: Final = "merge"


class _Identifier(Struct):
    type: str
    value: str | int


_merge = msgspec.json.Decoder(list[_Identifier])
_object = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def take_traits(draft: Draft) -> None:
    """The traits of an identify call stand in its context: they become its traits."""
    if b'"traits"' not in draft.context:
        return
    fields = _object.decode(draft.context)
    traits = fields.pop("traits", None)
    if traits is not None and bytes(traits).startswith(b"{"):
        draft.wire.traits, draft.context = traits, _encode(fields)


def identify_of_merge(wire: Wire) -> Refusal | None:
    """A merge call names identifiers of one person: userId or anonymousId, and `mergeProperties`, a list of
    {"type": "email", "value": ...}. That is an identify call, with the identifiers as traits.

    It is no alias call: nothing says which of the identifiers came first, and an e-mail address or a telephone number
    is no id of ours. Where userId or anonymousId is missing, an identifier of that type is it.
    """
    try:
        identifiers = _merge.decode(b"null" if wire.merge_properties is UNSET else wire.merge_properties)
    except msgspec.ValidationError as e:
        return refuse(WRONG_TYPE, f"mergeProperties: {e}")
    wire.type = "identify"
    traits: dict[str, str | int] = {}
    for identifier in identifiers:
        if identifier.type in ("userId", "user_id") and wire.user_id is None:
            wire.user_id = identifier.value
        elif identifier.type in ("anonymousId", "anonymous_id") and wire.anonymous_id is None:
            wire.anonymous_id = identifier.value
        else:
            traits[identifier.type] = identifier.value
    wire.traits = Raw(_encode(traits))
    return None
