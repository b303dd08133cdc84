"""Every Kafka topic: owner, key, value, retention. `tracker topics create|check` works from this table."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tracker.contract.triggers import TRIGGER_KINDS

DAY_MS: Final = 86_400_000


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
DEAD_LETTERS: Final = "tracker.dead-letters.v1"

TOPICS: Final[tuple[Topic, ...]] = (
    Topic(
        name=EVENTS, owner="endpoint", key="anonymousId, else userId", value="Event", retention_ms=7 * DAY_MS,
    ),
    Topic(
        name=PROFILE_EVENTS, owner="worker, resolve hop", key="profileId; none for clock records",
        value="ProfileEvent, or Clock once a second", retention_ms=7 * DAY_MS,
    ),
    Topic(
        name=DEAD_LETTERS, owner="endpoint, worker", key="none", value="DeadLetter", retention_ms=30 * DAY_MS,
        partitioned=False,
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


class DeadLetter(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The value of a record in tracker.dead-letters.v1: what could not be used, whole, and why."""

    reason: str
    """A closed set: tracker/rejections.py for the endpoint's, stream/poison.py for the worker's."""
    detail: str
    stage: str
    """'endpoint', 'resolve' or 'signals'."""
    at_ms: int
    original: bytes
    """The bytes as they came; base64 in the JSON."""
    site: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
