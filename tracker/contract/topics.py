"""Every Kafka topic: owner, key, value, retention. `tracker topics create|check` works from this table."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from tracker.contract.durations import DAY_MS
from tracker.contract.triggers import TRIGGER_KINDS


class Topic(Struct, frozen=True, kw_only=True):
    name: str
    owner: str
    """The part of the system that writes it."""
    key: str
    value: str
    retention_ms: int
    partitioned: bool = True
    """True: as many partitions as the setting `partitions` says (its state lives by partition). False: one."""


EVENTS: Final = "tracker.events.v1"
PROFILE_EVENTS: Final = "tracker.profile-events.v1"
MERGES: Final = "tracker.merges.v1"
DEAD_LETTERS: Final = "tracker.dead-letters.v1"
WEBHOOK_REPLAYS: Final = "tracker.webhook-replays.v1"

TOPICS: Final[tuple[Topic, ...]] = (
    Topic(
        name=EVENTS, owner="endpoint", key="anonymousId, else userId", value="Event", retention_ms=7 * DAY_MS,
    ),
    Topic(
        name=PROFILE_EVENTS, owner="worker, resolve hop",
        key="profileId (of a Merge the loser's); none for clock records",
        value="ProfileEvent, Merge, Unmerge, Handover, Model, or Clock once a second", retention_ms=7 * DAY_MS,
    ),
    Topic(
        name=MERGES, owner="worker, resolve hop, CLI", key="the loser's profileId", value="Merge, or Unmerge",
        retention_ms=400 * DAY_MS, partitioned=False,
    ),
    Topic(
        name=DEAD_LETTERS, owner="endpoint, worker, CLI", key="none", value="DeadLetter, or Replay",
        retention_ms=30 * DAY_MS, partitioned=False,
    ),
    Topic(
        name=WEBHOOK_REPLAYS, owner="CLI", key="name of the webhook", value="CloudEvent",
        retention_ms=7 * DAY_MS, partitioned=False,
    ),
    *(
        Topic(
            name=kind.topic, owner="worker, signals hop", key="profileId",
            value=f"CloudEvent with {kind.data.__name__}",
            retention_ms=7 * DAY_MS, partitioned=False,
        )
        for kind in TRIGGER_KINDS
    ),
)  # fmt: skip


MAX_RECORD_BYTES: Final = 960 * 1024
"""Most of a record that is passed on. Kafka takes batches of 1,048,588 bytes by default; what is passed on grows by who
it is from."""
MAX_ORIGINAL_BYTES: Final = 512 * 1024
"""Most that is kept of a dead letter's original: base64 makes four bytes of three. The largest event that the endpoint
may be set to take is no larger."""


class DeadLetter(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The value of a record in tracker.dead-letters.v1: what could not be used, why, and what it takes to try again."""

    reason: str
    """A closed set: tracker/rejections.py for the endpoint's, stream/poison.py for the worker's."""
    detail: str
    stage: str
    """'endpoint', 'resolve', 'signals' or 'webhooks'."""
    at_ms: int
    """The endpoint's: when the request was received."""
    original: bytes
    """The bytes as they came; base64 in the JSON."""
    site: str | None = None
    # What an event of a request came with:
    source: str = "client"
    """'client' (write key) or 'import' (secret key)."""
    type: str | None = None
    """The call that the path named; of a batch none."""
    index: int = 0
    """Its place in its batch. The next four are the batch's."""
    sent_at: str | None = None
    message_id: str | None = None
    context: Raw | UnsetType = UNSET
    integrations: Raw | UnsetType = UNSET
    ip: str = ""
    """The client's address, as far as the site's policy keeps it."""
    user_agent: str = ""
    missing_bytes: int = 0
    """What was too large to be kept of the original and of what is the batch's; above 0 there is no replay of it."""
    # Where a worker found it:
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    key: bytes | None = None
    """The record's key; base64 in the JSON."""
    endpoint: str | None = None
    """Of the stage 'webhooks': which webhook it could not be delivered to."""


class Replay(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Another value in tracker.dead-letters.v1: letters that `tracker dead-letters replay` took up, or has done.

    It stands behind its letters in their partition, so it is kept as long as they are.
    """

    replay: Literal["begun", "done"]
    at_ms: int
    letters: list[int]
    """Their offsets."""
    begun: int | None = None
    """Of one that is done: the offset of the record that says begun."""


REPLAY_PREFIX: Final = b'{"replay":'
"""How a Replay begins; a DeadLetter never does."""
