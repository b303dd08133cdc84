"""The values that the steps pass along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from tracker.contract.events import MAX_ID_CHARS
from tracker.rejections import Refusal

NO_BYTES: Final = b""
MAX_TEXT_CHARS: Final = 1000
"""Longest page or screen name and category: titles of pages are longer than ids."""

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]


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
    integrations: Raw | UnsetType = UNSET
    # What is not written:
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    write_key: Raw | UnsetType = UNSET
    merge_properties: Raw | UnsetType = UNSET
    """Of RudderStack's merge call."""


class UsualWire(Wire, rename="camel", gc=False, omit_defaults=True):
    """An event whose ids and names are as they should be: msgspec checks that at a tenth of the price."""

    message_id: Id | None = None
    event: Id | None = None
    name: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | None = None
    category: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | None = None
    user_id: Id | None = None
    anonymous_id: Id | None = None
    group_id: Id | None = None
    previous_id: Id | None = None


UNREAD: Final = Wire()
"""Stands for an event that could not be decoded."""


class Context(Struct, frozen=True):
    """What the steps look at of an event's context; see tracker/intake/context.py."""

    raw: Raw | UnsetType = UNSET
    """The context as it is written: without the address, and with each key once."""
    channel: str | None = None
    user_agent: str = ""
    ip: str = ""
    url: str = ""
    """Of the page; it has no query where `search` has it. So are the next two."""
    search: str = ""
    referrer: str = ""
    campaign: tuple[tuple[str, str], ...] = ()
    """(source, medium, name, term, content or id; its value), as the client says."""
    consent: bool | tuple[tuple[str, bool], ...] | None = None
    """Yes or no, or that by category in lower case; None: nothing is said."""
    webdriver: bool = False
    """The browser says that it is driven by a program."""


NO_CONTEXT: Final = Context()


class Campaign(Struct, frozen=True):
    """What brought the visitor, in lower case where rules look at it."""

    source: str = ""
    medium: str = ""
    clicks: tuple[str, ...] = ()
    """Names of its click ids."""
    written: bytes = NO_BYTES
    clicks_written: bytes = NO_BYTES


NO_CAMPAIGN: Final = Campaign()


class Visitor(Struct):
    """What is found out about who sends: the same for all events of a request that have the same context."""

    context: Context
    written_context: Raw | UnsetType = UNSET
    """The context as it is written."""
    campaign: Campaign = NO_CAMPAIGN
    # What is found, as it is written: b'"name":value,' or nothing.
    device: bytes = NO_BYTES
    bot: bytes = NO_BYTES
    ip: bytes = NO_BYTES
    consent: bytes = NO_BYTES
    written: bytes = NO_BYTES
    """All of it, the campaign first."""
    daily_id: str = ""
    """Without consent: the only id that is left, until the end of the day; traits are taken off, too."""
    refusal: Refusal | None = None
    """Why nothing of this visitor is taken."""


NOBODY: Final = Visitor(NO_CONTEXT)


class Policy(Struct, frozen=True):
    """What a site lets the intake keep: its settings of the same names (tracker.contract.sites.Site)."""

    ip: str = "truncate"
    bots: str = "flag"
    consent: str = "optional"
    consent_category: str = "analytics"
    without_consent: str = "drop"
    salt: bytes = b""
    """For the daily ids of visitors without consent; nobody who does not have the secret key can make them."""


DEFAULT_POLICY: Final = Policy()


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
    """A batch's, for items that have none; so are the next three."""
    context: Raw | UnsetType = UNSET
    integrations: Raw | UnsetType = UNSET
    message_id: str | None = None
    ip: str = ""
    """The client's address; '' when it is not known. It and the next stand for the visitor's where source is client."""
    user_agent: str = ""
    policy: Policy = DEFAULT_POLICY
    user_agents_left: int = 50
    """How many user agents that were not seen before this request may still have parsed, at 0.3 ms each."""
    visitor: Visitor | None = None
    """Of the event before, and the context that it was found in: usually the next one's, too."""
    said: bytes = NO_BYTES
    head: bytes = NO_BYTES
    """What all events of the request begin with, once one is encoded."""


class Draft(Struct, gc=False):
    """One event on its way through the steps."""

    wire: Wire
    index: int = 0
    visitor: Visitor = field(default_factory=lambda: NOBODY)
    properties: bytes = NO_BYTES
    """The wire's; empty where it has none. So is the next."""
    context: bytes = NO_BYTES
    timestamp_ms: int = 0
    skew_ms: int | None = None
    """The client's clock minus ours, as far as sentAt tells."""
    clamped: bool = False
    """Its time was impossible and became the time it was received."""
    channel: str = ""
    traffic: bytes = NO_BYTES
    """As it is written."""
    key: bytes = NO_BYTES
    value: bytes = NO_BYTES

    @property
    def stripped(self) -> bool:
        """Its person has not consented: ids and traits are taken off."""
        return bool(self.visitor.daily_id)

    @property
    def type(self) -> str:
        """Known once `check` has let it through."""
        return self.wire.type or ""
