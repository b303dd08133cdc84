"""`tracker dead-letters replay`: another try, in batches. What its records promise: tracker/cli/dead_letters.py."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from tracker.cli.common import Failure
from tracker.cli.dead_letters_log import PARTITION, Filter, Found, Reader, Survey, kafka_error, records
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, DeadLetter, Replay

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    from tracker.dead_letters import Redo

GROUP: Final = "tracker-dead-letters-replay"
BATCH_LETTERS: Final = 200
"""What a crash may cause to be published twice."""
BATCH_BYTES: Final = 2 << 20
JOIN_S: Final = 30.0
"""Beyond session_timeout_s, after which a replay that was killed no longer holds the lock."""

_encode: Final = msgspec.json.Encoder().encode


class Replaying:
    def __init__(
        self, settings: Settings, wanted: Filter, offsets: frozenset[int], limit: int | None, dry_run: bool
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._offsets = offsets
        self._limit = limit
        self._dry_run = dry_run
        self._outcomes: Counter[tuple[str, str]] = Counter()
        """(outcome, reason) -> letters."""

    async def run(self) -> int:
        from aiokafka import AIOKafkaProducer

        async with Reader(self._settings) as consumer:
            if self._dry_run:
                await self._replay(consumer, None, None)
                self._summarize()
                return 0
            async with Lock(self._settings) as lock:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._settings.kafka, acks="all", enable_idempotence=True,
                    client_id="tracker-dead-letters", max_request_size=4 << 20, linger_ms=5,
                )  # fmt: skip
                await producer.start()
                try:
                    await self._replay(consumer, producer, lock)
                finally:
                    await asyncio.wait([asyncio.ensure_future(producer.stop())], timeout=5)
        self._summarize()
        return 0

    async def _replay(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer | None, lock: Lock | None) -> None:
        survey, chosen = await self._choose(consumer)
        for begun, offsets in sorted(survey.begun.items()):
            # First, so that places rise from batch to batch: see tracker/contract/events.py, ProfileEvent.src.
            click.echo(
                f"a replay was cut off in the middle of {len(offsets)} letters: they are finished first", err=True
            )
            again = [found async for found in self._letters(consumer, offsets)]
            await self._batch(again, producer, lock, (begun, offsets))
            chosen = [offset for offset in chosen if offset not in set(offsets)]
        with _progress() as progress:
            task = progress.add_task("dry run" if self._dry_run else "replay", total=len(chosen))
            batch: list[Found] = []
            size = 0
            async for found in self._letters(consumer, chosen):
                batch.append(found)
                size += len(found.letter.original)
                if len(batch) >= BATCH_LETTERS or size >= BATCH_BYTES:
                    await self._batch(batch, producer, lock)
                    progress.advance(task, len(batch))
                    batch, size = [], 0
            await self._batch(batch, producer, lock)
            progress.advance(task, len(batch))

    async def _choose(self, consumer: AIOKafkaConsumer) -> tuple[Survey, list[int]]:
        """What was replayed, and the offsets of the letters that are to be. All of the topic is read: see Survey."""
        survey, chosen = Survey(), list[int]()
        async for offset, _, value in records(consumer):
            if isinstance(value, Replay):
                survey.note(offset, value)
            elif value is not None and (not self._offsets or offset in self._offsets) and self._wanted.accepts(value):
                chosen.append(offset)
        if missing := sorted(self._offsets - set(chosen)):
            raise Failure(f"there is no dead letter at {PARTITION}:{missing[0]} that the filters accept")
        if repeats := sum(offset in survey.done for offset in chosen):
            self._outcomes["was replayed before", ""] = repeats
        chosen = [offset for offset in chosen if offset not in survey.done]
        return survey, chosen if self._limit is None else chosen[: self._limit]

    async def _letters(self, consumer: AIOKafkaConsumer, offsets: Collection[int]) -> AsyncIterator[Found]:
        if offsets:
            wanted = set(offsets)
            async for offset, _, value in records(consumer, first=min(wanted), last=max(wanted)):
                if offset in wanted and isinstance(value, DeadLetter):
                    yield Found(offset, value)

    async def _batch(
        self,
        batch: Sequence[Found],
        producer: AIOKafkaProducer | None,
        lock: Lock | None,
        begun: tuple[int, list[int]] | None = None,
    ) -> None:
        """Publish what is accepted now. `begun`: offset and letters of the record that says so, if it is there."""
        from tracker.dead_letters import redo

        good: list[tuple[int, Redo]] = []
        for found in batch:
            outcome = redo(found.letter, found.offset, self._settings)
            if isinstance(outcome, tuple):
                self._outcomes["stays dead", outcome[0]] += 1
            else:
                good.append((found.offset, outcome))
        if producer is None:
            self._outcomes["would be replayed", ""] += len(good)
            return
        assert lock is not None
        if not good and begun is None:
            return
        await lock.check()
        offsets = [offset for offset, _ in good]
        timeout_s = self._settings.produce_timeout_s
        try:
            async with asyncio.timeout(timeout_s + 5):
                if begun is None:
                    begun = await _mark(producer, Replay(replay="begun", at_ms=_now_ms(), letters=offsets)), offsets
                place = {offset: n for n, offset in enumerate(begun[1])}
                acks = [
                    await producer.send(to.topic, to.value(begun[0], place[offset]), to.key, to.partition)
                    for offset, to in good
                ]
                await asyncio.gather(*acks)
                await _mark(producer, Replay(replay="done", at_ms=_now_ms(), letters=offsets, begun=begun[0]))
        except (TimeoutError, OSError, kafka_error()) as e:
            raise Failure(
                f"Kafka did not ack ({e or type(e).__name__}): replay again, it goes on where it stopped"
            ) from None
        self._outcomes["replayed", ""] += len(good)

    def _summarize(self) -> None:
        if not self._outcomes:
            click.echo("no dead letter is chosen")
        for (outcome, reason), n in sorted(self._outcomes.items()):
            if n:
                click.echo(f"{n:>8} {outcome}{f': {reason}' if reason else ''}")


async def _mark(producer: AIOKafkaProducer, replay: Replay) -> int:
    """Write it; its offset."""
    metadata = await producer.send_and_wait(DEAD_LETTERS, _encode(replay), partition=PARTITION)
    return int(metadata.offset)


class Lock:
    """One replay at a time: it holds the topic's partition in a consumer group of its own.

    The one that began first keeps it, because the group's members are sorted by their names; who comes second is told.
    A replay that was killed holds it for session_timeout_s.
    """

    def __init__(self, settings: Settings) -> None:
        from aiokafka import AIOKafkaConsumer, TopicPartition
        from aiokafka.abc import ConsumerRebalanceListener
        from aiokafka.coordinator.assignors.range import RangePartitionAssignor

        self._timeout_s = settings.session_timeout_s + JOIN_S
        self._partition = TopicPartition(DEAD_LETTERS, PARTITION)
        self._settled = settled = asyncio.Event()
        self._consumer = consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            client_id=f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}",
            group_id=GROUP,
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 200),
            rebalance_timeout_ms=int(settings.session_timeout_s * 1000),
            max_poll_interval_ms=86_400_000,  # nothing is read through it
            enable_auto_commit=False,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
            def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
                settled.clear()

            def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
                consumer.pause(*assigned)
                settled.set()

        consumer.subscribe([DEAD_LETTERS], listener=Listener())

    async def __aenter__(self) -> Lock:
        await self._consumer.start()
        try:
            await self.check()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def check(self) -> None:
        """Raises Failure when another replay has it."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise Failure(f"Kafka did not say within {self._timeout_s:g} s who may replay: try again") from None
        if self._partition not in self._consumer.assignment():
            raise Failure("another replay is running: wait for its end")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True)
