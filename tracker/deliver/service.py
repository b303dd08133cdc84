"""One webhook's endpoint: a consumer group of its own, so none waits for another and each has its own progress.

What becomes of a trigger: it is posted until the endpoint answers 2xx, at most `attempts` times, then it is a dead
letter. Only then is its offset committed: a crash repeats, and loses nothing. Triggers of one profile go in their
order, of different profiles side by side, at most `in_flight` at once. At most WINDOW triggers are taken ahead of the
oldest that is not done; then nothing more is fetched.

An endpoint that begins, begins with what comes then, not with the past.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from random import random
from time import time
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from msgspec import Struct

from tracker.contract.settings import Settings
from tracker.contract.sites import Webhook
from tracker.contract.topics import DEAD_LETTERS, WEBHOOK_REPLAYS, DeadLetter
from tracker.contract.triggers import TRIGGER_KINDS, CloudEvent, decode_trigger
from tracker.deliver import metrics
from tracker.deliver.post import Poster
from tracker.deliver.retry import Breaker, wait_s

log = logging.getLogger(__name__)

WINDOW: Final = 256
POLL_MS: Final = 500
COMMIT_EVERY_S: Final = 1.0
LAG_EVERY_S: Final = 5.0
BREAKER_LOOK_S: Final = 0.2
RESTART_S: Final = 5.0

GIVEN_UP: Final[dict[str, str]] = {
    "not_delivered": "The endpoint never answered 2xx; `endpoint` names it, `detail` says what came instead.",
    "not_a_trigger": "What stood in the topic is no CloudEvent.",
}
"""Reasons of dead letters of the stage `webhooks`."""

_encode: Final = msgspec.json.Encoder().encode


class Progress:
    """The offsets of one partition: what may be committed is before the oldest that is not done."""

    def __init__(self, next: int) -> None:
        self.next = next
        self.committed = next
        self._open: deque[int] = deque()
        self._done: set[int] = set()

    def take(self, offset: int) -> None:
        self._open.append(offset)
        self.next = offset + 1

    def done(self, offset: int) -> None:
        self._done.add(offset)
        while self._open and self._open[0] in self._done:
            self._done.remove(self._open.popleft())

    @property
    def safe(self) -> int:
        return self._open[0] if self._open else self.next

    def __len__(self) -> int:
        return len(self._open)


class Job(Struct, frozen=True):
    """A trigger on its way."""

    partition: TopicPartition
    offset: int
    key: bytes | None
    event: CloudEvent
    body: bytes


def group_of(settings: Settings, hook: Webhook) -> str:
    """The endpoint's consumer group."""
    return f"{settings.webhook_group}-{hook.name}"


def topics_of(hook: Webhook) -> list[str]:
    kinds = [kind.topic for kind in TRIGGER_KINDS if not hook.kinds or kind.name in hook.kinds]
    return [*kinds, WEBHOOK_REPLAYS]


class Endpoint:
    """One webhook: reads its topics, posts, commits. `run` until it is cancelled."""

    def __init__(
        self, hook: Webhook, settings: Settings, letters: AIOKafkaProducer, clock: Callable[[], float] = time
    ) -> None:
        self.hook = hook
        self._settings = settings
        self._letters = letters
        self._clock = clock
        self._breaker = Breaker(
            settings.webhook_breaker_failures, settings.webhook_breaker_s, settings.webhook_retry_max_s
        )
        self._slots = asyncio.Semaphore(hook.in_flight)
        self._progress: dict[TopicPartition, Progress] = {}
        self._lanes: dict[tuple[TopicPartition, bytes | None], tuple[deque[Job], asyncio.Task[None]]] = {}
        self._failed: Exception | None = None
        """What a lane ended with that is none of the endpoint's failures."""
        self.joined = False

    async def run(self) -> None:
        while True:
            try:
                await self._run()
            except (KafkaError, OSError) as e:
                log.warning("Webhook %s: Kafka failed (%s); again in %g s", self.hook.name, e, RESTART_S)
            except Exception:  # a bug here must not stop the other endpoints
                log.exception("Webhook %s failed; again in %g s", self.hook.name, RESTART_S)
            await asyncio.sleep(RESTART_S)

    async def _run(self) -> None:
        settings = self._settings
        consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            group_id=group_of(settings, self.hook),
            client_id=f"tracker-webhook-{self.hook.name}",
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.session_timeout_s * 200),
            max_poll_records=WINDOW,
        )
        consumer.subscribe(topics_of(self.hook), listener=_Rebalance(self, consumer))
        try:
            async with Poster(self.hook) as poster:
                try:
                    await consumer.start()
                    await self._deliver(consumer, poster)
                finally:
                    self.joined = False
                    await self._drop(list(self._progress))
        finally:
            with contextlib.suppress(KafkaError):
                await self._commit(consumer)
            self._progress.clear()
            await consumer.stop()

    async def _deliver(self, consumer: AIOKafkaConsumer, poster: Poster) -> None:
        committed_s = looked_s = 0.0
        self._failed = None
        while True:
            if self._failed is not None:
                raise self._failed
            room = WINDOW - sum(map(len, self._progress.values()))
            if room > 0:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=room)
            else:
                await asyncio.sleep(POLL_MS / 1000)
                found = {}
            for partition, records in found.items():
                # aiokafka gives out records of an assignment while `assigned`, which waits for Kafka, is under way.
                self._progress.setdefault(partition, Progress(records[0].offset))
            for partition, records in found.items():
                for record in records:
                    await self._take(partition, record, poster)
            metrics.QUEUE.labels(self.hook.name).set(sum(map(len, self._progress.values())))
            metrics.OPEN.labels(self.hook.name).set(self._breaker.open)
            if self._clock() - committed_s >= COMMIT_EVERY_S:
                committed_s = self._clock()
                await self._commit(consumer)
            if self._clock() - looked_s >= LAG_EVERY_S:
                looked_s = self._clock()
                await self._show_lag(consumer)

    async def _show_lag(self, consumer: AIOKafkaConsumer) -> None:
        """Kafka is asked: of a log that nothing is fetched of, as behind an open breaker, the consumer knows no end."""
        partitions = list(self._progress)
        ends = await consumer.end_offsets(partitions) if partitions else {}
        still = ((end, self._progress.get(partition)) for partition, end in ends.items())
        metrics.LAG.labels(self.hook.name).set(
            sum(max(0, end - progress.safe) for end, progress in still if progress is not None)
        )

    async def assigned(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Where to go on; of what is new to the group from here on: a later start must not skip what comes before."""
        first: dict[TopicPartition, int] = {}
        for partition in partitions:
            offset = await consumer.position(partition)
            progress = self._progress.setdefault(partition, Progress(offset))
            if await consumer.committed(partition) is None:
                first[partition] = progress.safe
        if first:
            await consumer.commit(first)
        self.joined = True

    async def revoked(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        await self._drop(partitions)
        with contextlib.suppress(KafkaError):
            await self._commit(consumer)
        for partition in partitions:
            self._progress.pop(partition, None)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        safe = {p: progress.safe for p, progress in self._progress.items() if progress.safe > progress.committed}
        if safe:
            await consumer.commit(safe)
            for partition, offset in safe.items():
                if (progress := self._progress.get(partition)) is not None:
                    progress.committed = offset

    # -- one trigger

    async def _take(self, partition: TopicPartition, record: Any, poster: Poster) -> None:
        progress = self._progress.get(partition)
        if progress is None:
            return  # It was taken from us with what it had fetched.
        progress.take(record.offset)
        if partition.topic == WEBHOOK_REPLAYS and record.key != self.hook.name.encode():
            progress.done(record.offset)
            return
        try:
            event = decode_trigger(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            await self._bury(partition, record.offset, record.key, record.value or b"", None, "not_a_trigger", str(e))
            progress.done(record.offset)
            return
        if self.hook.sites and event.site not in self.hook.sites:
            progress.done(record.offset)
            return
        job = Job(partition, record.offset, record.key, event, record.value)
        lane = self._lanes.get((partition, record.key))
        if lane is not None:
            lane[0].append(job)
        else:
            waiting = deque([job])
            task = asyncio.create_task(self._lane(partition, record.key, waiting, poster))
            self._lanes[partition, record.key] = waiting, task

    async def _lane(self, partition: TopicPartition, key: bytes | None, waiting: deque[Job], poster: Poster) -> None:
        """A profile's triggers, one after the other."""
        try:
            while waiting:
                job = waiting[0]
                await self._finish(job, poster)
                if (progress := self._progress.get(partition)) is not None:
                    progress.done(job.offset)
                waiting.popleft()
        except Exception as e:
            self._failed = e
        finally:
            self._lanes.pop((partition, key), None)

    async def _finish(self, job: Job, poster: Poster) -> None:
        """Deliver a trigger or make a dead letter of it."""
        name, settings = self.hook.name, self._settings
        failures = 0
        while True:
            async with self._slots:
                await self._turn()
                began = self._clock()
                try:
                    outcome = await poster.post(job.event.id, job.body, began)
                except BaseException:
                    self._breaker.gave_up()
                    raise
            now = self._clock()
            metrics.SECONDS.labels(name).observe(max(0.0, now - began))
            self._breaker.went(outcome.ok, now, outcome.retry_after_s)
            if outcome.ok:
                metrics.DELIVERIES.labels(name, "delivered").inc()
                return
            failures += 1
            metrics.DELIVERIES.labels(name, "failed").inc()
            log.info("Webhook %s: %s for %s, try %d", name, outcome.what, job.event.id, failures)
            if outcome.final or failures >= self.hook.attempts:
                detail = f"webhook {name}: {outcome.what}, {failures} tries"
                await self._bury(job.partition, job.offset, job.key, job.body, job.event.site, "not_delivered", detail)
                return
            await asyncio.sleep(
                wait_s(
                    failures, first_s=settings.webhook_retry_s, most_s=settings.webhook_retry_max_s, draw=random(),
                    retry_after_s=outcome.retry_after_s,
                )
            )  # fmt: skip

    async def _turn(self) -> None:
        """Wait until the breaker lets a request go."""
        while not self._breaker.may_go(self._clock()):  # noqa: ASYNC110  # it opens by time
            await asyncio.sleep(BREAKER_LOOK_S)

    async def _bury(
        self, partition: TopicPartition, offset: int, key: bytes | None, body: bytes, site: str | None, reason: str,
        detail: str,
    ) -> None:  # fmt: skip
        """Into the dead letters; as long as Kafka does not take it, the trigger is not done."""
        letter = DeadLetter(
            reason=reason, detail=detail[:500], stage="webhooks", at_ms=int(self._clock() * 1000), original=body,
            site=site, topic=partition.topic, partition=partition.partition, offset=offset, key=key,
            endpoint=self.hook.name,
        )  # fmt: skip
        while True:
            try:
                await self._letters.send_and_wait(DEAD_LETTERS, _encode(letter), partition=0)
                break
            except (KafkaError, OSError) as e:
                log.warning("Webhook %s: Kafka did not take a dead letter (%s)", self.hook.name, e)
                await asyncio.sleep(RESTART_S)
        metrics.DELIVERIES.labels(self.hook.name, "dead_letter").inc()
        log.warning("Webhook %s: gave up %s[%d] %d: %s", self.hook.name, *partition, offset, detail)

    async def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        """End what is under way there; whoever has them next begins with it."""
        gone = set(partitions)
        tasks = [task for (partition, _), (_, task) in list(self._lanes.items()) if partition in gone]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, endpoint: Endpoint, consumer: AIOKafkaConsumer) -> None:
        self._endpoint = endpoint
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._endpoint.revoked(self._consumer, revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._endpoint.assigned(self._consumer, assigned)
