"""The dead-letter topic, read: its letters, and what records of replays say of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import Struct

from tracker.cli.common import Failure
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, REPLAY_PREFIX, DeadLetter, Replay

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

PARTITION: Final = 0
"""The topic has one."""
STALLED_S: Final = 15.0
"""Without a record from Kafka, though there are more."""

_letter: Final = msgspec.json.Decoder(DeadLetter)
_replay: Final = msgspec.json.Decoder(Replay)


class Filter(Struct, frozen=True):
    """Which letters."""

    site: str | None = None
    reasons: frozenset[str] = frozenset()
    stage: str | None = None
    since_ms: int = 0

    def accepts(self, letter: DeadLetter) -> bool:
        return (
            letter.at_ms >= self.since_ms
            and (not self.reasons or letter.reason in self.reasons)
            and (self.stage is None or letter.stage == self.stage)
            and (self.site is None or site_of(letter) == self.site)
        )


class Found(NamedTuple):
    offset: int
    letter: DeadLetter


class Survey(Struct):
    """What the topic's Replay records say."""

    begun: dict[int, list[int]] = {}
    """Offset of the record -> its letters, of batches that are not done."""
    done: set[int] = set()
    """Letters that succeeded."""

    def note(self, offset: int, replay: Replay) -> None:
        if replay.replay == "begun":
            self.begun[offset] = replay.letters
        else:
            self.begun.pop(replay.begun if replay.begun is not None else -1, None)
            self.done.update(replay.letters)

    def state(self, found: Found) -> str:
        if found.offset in self.done:
            return "replayed"
        if any(found.offset in letters for letters in self.begun.values()):
            return "begun"
        return "incomplete" if found.letter.missing_bytes else "dead"


class _Site(Struct):
    site: str | None = None


_site: Final = msgspec.json.Decoder(_Site)


def site_of(letter: DeadLetter) -> str | None:
    """A worker's letter says it in its original, if anywhere."""
    if letter.site is not None or letter.stage == "endpoint":
        return letter.site
    try:
        return _site.decode(letter.original).site
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class Reader:
    """A consumer at the topic. Raises Failure when Kafka or the topic is not there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> AIOKafkaConsumer:
        from aiokafka import AIOKafkaConsumer, TopicPartition

        from tracker.cli.topics import admin

        async with admin(self._settings.kafka) as client:
            if DEAD_LETTERS not in await client.list_topics():
                raise Failure(
                    f"there is no topic {DEAD_LETTERS} at {self._settings.kafka}: run `tracker topics create`"
                )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self._consumer.start()
        self._consumer.assign([TopicPartition(DEAD_LETTERS, PARTITION)])
        return self._consumer

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._consumer.stop()
        if isinstance(error, kafka_error()):
            raise Failure(f"Kafka at {self._settings.kafka} does not answer any more: {error}") from None


async def records(
    consumer: AIOKafkaConsumer, *, since_ms: int = 0, first: int = 0, last: int | None = None
) -> AsyncIterator[tuple[int, int, DeadLetter | Replay | None]]:
    """(offset, bytes, value or None) of the records that are there now, from `first` or `since_ms` on to `last`.

    A Replay stands behind its letters: who begins at a letter meets all that is said of it.
    """
    from aiokafka import TopicPartition

    where = TopicPartition(DEAD_LETTERS, PARTITION)
    begin = (await consumer.beginning_offsets([where]))[where]
    end = (await consumer.end_offsets([where]))[where]
    if last is not None:
        end = min(end, last + 1)
    if since_ms:
        found = (await consumer.offsets_for_times({where: since_ms}))[where]
        first = found.offset if found is not None else end
    position = max(begin, first)
    consumer.seek(where, position)
    moved_s = time.monotonic()
    while position < end:
        before = position
        for record in (await consumer.getmany(where, timeout_ms=500)).get(where, ()):
            position = record.offset + 1
            if record.offset >= end:
                return
            yield record.offset, len(record.value or b""), _read(record.value or b"")
        position = max(position, await consumer.position(where))  # there may be gaps at the end
        if position > before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > STALLED_S:
            raise Failure(f"Kafka has not sent letter {position} for {STALLED_S:g} s: try again when it is well")


def _read(value: bytes) -> DeadLetter | Replay | None:
    try:
        return (_replay if value.startswith(REPLAY_PREFIX) else _letter).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def kafka_error() -> type[Exception]:
    from aiokafka.errors import KafkaError

    error: type[Exception] = KafkaError
    return error
