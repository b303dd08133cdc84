"""Segment's signatures as a table: what a call's arguments mean, the same for every build of the snippet and for the
stub's calls, which the endpoint reads. `...` stands for undefined, which a stub can only hand on as null."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

P: Final = {"a": 1}
"""Properties or traits."""
O: Final = {"messageId": "m-1"}  # noqa: E741
"""Options."""


class Signature(NamedTuple):
    call: list[Any]
    """[method, ...arguments]"""
    fields: dict[str, Any]
    """Of its message; what the snippet adds to a page's properties is not in it."""
    message_id: str | None = None


SIGNATURES: Final = [
    Signature(["track", "A"], {"event": "A", "properties": {}}),
    Signature(["track", "A", P], {"event": "A", "properties": P}),
    Signature(["track", "A", P, O], {"event": "A", "properties": P}, "m-1"),
    Signature(["track", "A", None, O], {"event": "A", "properties": {}}, "m-1"),
    Signature(["track", "A", ..., O], {"event": "A", "properties": {}}, "m-1"),
    Signature(["track", "A", P, None], {"event": "A", "properties": P}),
    Signature(["track", "A", True], {"event": "A", "properties": {}}),
    Signature(["track", "A", "text", O], {"event": "A", "properties": {}}, "m-1"),
    Signature(["track", 12], {"event": "12", "properties": {}}),
    Signature(["page"], {"properties": {}}),
    Signature(["page", P], {"properties": P}),
    Signature(["page", P, O], {"properties": P}, "m-1"),
    Signature(["page", None, P, O], {"properties": P}, "m-1"),
    Signature(["page", "Home"], {"name": "Home", "properties": {}}),
    Signature(["page", "Home", P, O], {"name": "Home", "properties": P}, "m-1"),
    Signature(["page", None, "Home", P], {"name": "Home", "properties": P}),
    Signature(["page", ..., "Home", P, O], {"name": "Home", "properties": P}, "m-1"),
    Signature(["page", "Home", ..., P], {"name": "Home", "properties": P}),
    Signature(["page", None, None, P], {"properties": P}),
    Signature(["page", "Docs", "Home"], {"category": "Docs", "name": "Home", "properties": {}}),
    Signature(["page", "Docs", "Home", P], {"category": "Docs", "name": "Home", "properties": P}),
    Signature(["page", "Docs", "Home", None, O], {"category": "Docs", "name": "Home", "properties": {}}, "m-1"),
    Signature(["identify", "u1"], {"userId": "u1", "traits": {}}),
    Signature(["identify", 12, P], {"userId": "12", "traits": P}),
    Signature(["identify", "u1", P, O], {"userId": "u1", "traits": P}, "m-1"),
    Signature(["identify", "u1", ..., O], {"userId": "u1", "traits": {}}, "m-1"),
    Signature(["identify", P], {"traits": P}),
    Signature(["identify", P, O], {"traits": P}, "m-1"),
    Signature(["identify", None, P], {"traits": P}),
    Signature(["identify", ..., P, O], {"traits": P}, "m-1"),
    Signature(["identify", None, None, O], {"traits": {}}, "m-1"),
]

MORE_SIGNATURES: Final = [
    Signature(["group", "g1", P], {"groupId": "g1", "traits": P}),
    Signature(["group", "g1", None, O], {"groupId": "g1", "traits": {}}, "m-1"),
    Signature(["group", 7], {"groupId": "7", "traits": {}}),
    Signature(["alias", "new", "old"], {"userId": "new", "previousId": "old"}),
    Signature(["alias", "new", "old", O], {"userId": "new", "previousId": "old"}, "m-1"),
    Signature(["alias", 12, "old", None], {"userId": "12", "previousId": "old"}),
]
"""Of calls that /t.lite.js does not have."""
