"""The values that the steps pass along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Raw, Struct, UnsetType, field

NO_BYTES: Final = b""


class Wire(Struct, rename="camel", gc=False, omit_defaults=True):
    """An event as a client sends it (tracker.contract.events.Message), open where intake does not look.

    It is what is written, too: `encode` puts the endpoint's findings in front of it.
    """

    type: str | None = None
    message_id: str | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    # Numbers as ids are taken too: the clients of some languages send them.
    user_id: str | int | None = None
    anonymous_id: str | int | None = None
    group_id: str | int | None = None
    previous_id: str | int | None = None
    properties: Raw | UnsetType = UNSET
    traits: Raw | UnsetType = UNSET
    context: Raw | UnsetType = UNSET
    # What is not written:
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    write_key: Raw | UnsetType = UNSET


UNREAD: Final = Wire()
"""Stands for a Wire that is still to be decoded; never changed."""


class Call(Struct):
    """What is known of the request that an event came with."""

    site: str
    source: str
    """'client' (write key) or 'import' (secret key)."""
    now_ms: int
    """When the request was received."""
    make_id: Callable[[], str]
    """A new messageId, for events that have none."""
    max_event_bytes: int
    type: str | None = None
    """The call that the path names; None for a batch, whose items name their own."""
    sent_at: str | None = None
    """A batch's, for items that have none; so are the next two."""
    context: Raw | UnsetType = UNSET
    message_id: str | None = None


class Draft(Struct, gc=False):
    """One event on its way through the steps."""

    original: bytes
    index: int = 0
    wire: Wire = field(default_factory=lambda: UNREAD)
    timestamp_ms: int = 0
    skew_ms: int | None = None
    """The client's clock minus ours, as far as sentAt tells."""
    clamped: bool = False
    """Its time was impossible and became the time it was received."""
    channel: str = ""
    key: bytes = NO_BYTES
    value: bytes = NO_BYTES

    @property
    def type(self) -> str:
        """Known once `check` has let it through."""
        return self.wire.type or ""
