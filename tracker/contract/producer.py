"""Records to Kafka in batches of our own: 4 us a record where aiokafka's `send_and_wait` takes 25.

One open batch a partition collects what arrives within the linger; all its waiters share one future. A broker has one
request under way at a time (tracker/contract/sender.py), so what arrives meanwhile makes the next batches larger: they
grow with the load by themselves.

A batch costs as much as some records. So the linger grows up to its bound while there is a flow of records that is
spread thinly over the partitions, and falls back to the least when the flow ends or fills the batches.

    append -> open batch -> (linger, or enough bytes) -> under way -> acked: the future has its result
                                                                  \\-> failed or too late: the future has ProduceError

An idempotent producer repeats a batch until it is acked or the producer is broken: a dead broker would hang waiters.
So a sweep fails the futures of batches older than the produce timeout: those not yet sent are dropped, one under way
may still arrive (the client repeats it under the same messageIds). A broken producer is replaced by a new one.

With a `rescue` nothing fails but what Kafka refuses for its content: when a batch is late or lost, all that wait are
handed to it, oldest first in each partition, and the producer is replaced. It settles their futures.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from tracker.contract.batch import Batch, Where
from tracker.contract.codec import partition_of
from tracker.contract.linger import Linger
from tracker.contract.sender import Sender

log = logging.getLogger(__name__)

FLUSH_BYTES: Final = 256 * 1024
"""So much in open batches does not wait for the linger."""
RECORD_OVERHEAD: Final = 100
"""What a record's bookkeeping takes in memory besides its bytes, about."""
SWEEP_S: Final = 0.1
ANSWERS_S: Final = 2.0
"""For the batches beside one that Kafka refused."""
NO_HEADERS: Final[list[tuple[str, bytes]]] = []  # aiokafka's builder takes nothing but a list
RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0)
REFUSED: Final = (CorruptRecordException, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)
"""Kafka's answers to what a batch holds: the same batch would be refused again."""


class ProduceError(Exception):
    """The records were not acked. Some may be in Kafka nevertheless."""


class Full(ProduceError):
    """Too many bytes wait for Kafka already; nothing was taken."""


class TopicError(Exception):
    """A topic is missing."""


class PartitionsError(TopicError):
    """A topic has another number of partitions than the setting says: records would go where nobody looks for them."""


class Observer(Protocol):
    """Who measures: tracker/metrics.py and stream/metrics.py each have one."""

    def produced(self, seconds: float) -> None:
        """A batch was acked so long after it was sent."""

    def failed(self, retryable: bool) -> None:
        """A batch was not acked."""

    def waiting(self, records: int, size: int) -> None:
        """So many records, so many bytes are waiting now."""


Rescue = Callable[[list[Batch], str], None]
"""Takes batches that were not acked, and why, and settles their futures. Called in the loop, must not block."""


def fail(done: asyncio.Future[None], error: ProduceError) -> None:
    """Tell all who wait for a batch, unless they have been told."""
    if not done.done():
        done.set_exception(error)
        done.exception()  # its waiters may all be gone; then asyncio would log "never retrieved"


class KafkaOut:
    """An idempotent producer that answers after the ack of all in-sync replicas. Of one event loop."""

    def __init__(
        self,
        bootstrap: str,
        *,
        linger_ms: float,
        max_pending_bytes: int,
        produce_timeout_s: float,
        client_id: str,
        observer: Observer,
        ordered: bool = False,
        flush_bytes: int = FLUSH_BYTES,
        linger_max_ms: float = 0.0,
        rescue: Rescue | None = None,
    ) -> None:
        """`linger_max_ms`: what the linger may grow to; not at all if it is not above `linger_ms`.

        `ordered`: when a batch fails, those that wait behind it in its partition fail too, so that whoever sends all
        of them again keeps their order; else they are sent by the next producer."""
        self._observer = observer
        self._ordered = ordered
        self._flush_bytes = flush_bytes
        self._bootstrap = bootstrap
        self._linger = Linger(linger_ms / 1000, linger_max_ms / 1000)
        self._max_pending_bytes = max_pending_bytes
        self._timeout_s = produce_timeout_s
        self._client_id = client_id
        self._expected: Mapping[str, int | None] = {}
        self._partitions: dict[str, int] = {}
        self._sender: Sender | None = None
        self._open: dict[Where, Batch] = {}
        self._full: dict[Where, list[Batch]] = {}
        self._under_way: dict[Where, Batch] = {}
        self._held: set[Where] = set()
        self._rescue = rescue
        self._late: set[Where] = set()
        """Partitions whose open batch has had its linger, and waits only for the ack of the one before it."""
        self._open_bytes = 0
        self._flush_at: asyncio.TimerHandle | None = None
        self._flush_soon = self._late_soon = False
        self._broken = asyncio.Event()
        self._idle = asyncio.Event()
        self._stopping = False
        self._background: list[asyncio.Task[None]] = []
        self.pending_bytes = 0
        self.problem = "not connected to Kafka yet"
        """Why it is not ready, in words; empty when it is."""
        self.tried = False
        """The first attempt to connect has ended, either way."""
        self.misfit = False
        """What is there has other partitions than the setting says: waiting does not help."""
        self.connected = asyncio.Event()

    @property
    def ready(self) -> bool:
        return not self.problem and not self._stopping

    @property
    def oldest_s(self) -> float | None:
        """When the oldest batch was begun that is not acked, monotonic; None: there is none."""
        return min((batch.opened_s for batch in (*self._under_way.values(), *self._unsent())), default=None)

    def partitions(self, topic: str) -> int:
        """Partitions of a topic. Raises KeyError before the first connection."""
        return self._partitions[topic]

    def partition_of(self, topic: str, key: bytes) -> int:
        """Where records of this key belong. Raises ProduceError before the first connection."""
        if topic not in self._partitions:
            raise ProduceError(self.problem)
        return partition_of(key, self._partitions[topic])

    async def start(self, topics: Mapping[str, int | None]) -> None:
        """Begin to connect, and go on for as long as it takes: `ready` tells.

        `topics`: what is written to, with the partitions that it must have, or None.
        """
        self._loop = asyncio.get_running_loop()
        self._expected = topics
        self._background = [asyncio.create_task(self._connect()), asyncio.create_task(self._sweep())]

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int | None = None,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] = NO_HEADERS,
    ) -> asyncio.Future[None]:
        """Add one record to its partition's batch. Shield the future when you await it: others wait for it too.

        Without `partition` the key says it; without `timestamp_ms` it is now.

        Raises ProduceError when there is no connection yet, Full when max_pending_bytes are waiting.
        """
        if self._sender is None or self._stopping:
            raise ProduceError(self.problem or "stopping")
        size = len(value) + RECORD_OVERHEAD
        if self.pending_bytes + size > self._max_pending_bytes:
            raise Full(f"{self.pending_bytes} bytes are waiting")
        if partition is None:
            partition = partition_of(key or b"", self._partitions[topic])
        where = (topic, partition)
        batch = self._open.get(where)
        if batch is None:
            batch = self._new_batch(where)
        if batch.builder.append(batch.events, timestamp_ms, key, value, headers) is None:  # full
            self._full.setdefault(where, []).append(batch)
            batch = self._new_batch(where)
            batch.builder.append(0, timestamp_ms, key, value, headers)
            self._flush_now()
        batch.bytes += size
        batch.events += 1
        self._added(size)
        return batch.done

    def extend(
        self,
        topic: str,
        partition: int,
        records: Sequence[tuple[bytes | None, bytes]],
        timestamp_ms: int | None = None,
    ) -> set[asyncio.Future[None]]:
        """Add records, (key, value), to a partition in their order; the futures of the batches they are in.

        As `append`, at half the price a record. Raises ProduceError and Full as it does, before any was taken.
        """
        if self._sender is None or self._stopping:
            raise ProduceError(self.problem or "stopping")
        size = sum(len(value) for _, value in records) + RECORD_OVERHEAD * len(records)
        if self.pending_bytes + size > self._max_pending_bytes:
            raise Full(f"{self.pending_bytes} bytes are waiting")
        where = (topic, partition)
        batch = self._open.get(where) or self._new_batch(where)
        acks = {batch.done}
        for key, value in records:
            if batch.builder.append(batch.events, timestamp_ms, key, value, NO_HEADERS) is None:  # full
                self._full.setdefault(where, []).append(batch)
                batch = self._new_batch(where)
                acks.add(batch.done)
                batch.builder.append(0, timestamp_ms, key, value, NO_HEADERS)
                self._flush_now()
            batch.events += 1
            batch.bytes += len(value) + RECORD_OVERHEAD
        self._added(size)
        return acks

    def _added(self, size: int) -> None:
        """So many bytes are in open batches: they leave at once when there are enough, else soon."""
        self.pending_bytes += size
        self._open_bytes += size
        if self._open_bytes >= self._flush_bytes:
            self._flush_now()
        elif self._flush_at is None:
            self._flush_at = self._loop.call_later(self._linger.wait_s(time.monotonic()), self._flush)

    async def stop(self, timeout_s: float) -> None:
        """Take nothing more, wait for what is under way, at most `timeout_s`; the rest fails."""
        self._stopping = True
        deadline_s = time.monotonic() + timeout_s
        self._flush()
        while self.pending_bytes and (left_s := deadline_s - time.monotonic()) > 0 and self._sender is not None:
            self._idle.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._idle.wait()
            except TimeoutError:
                break
        self.give_up("stopped before Kafka acked")
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._sender is not None:
            await self._close(self._sender)
            self._sender = None

    def give_up(self, why: str) -> None:
        """Fail every future that is not done."""
        if self._rescue is not None:
            if self.pending_bytes:
                self._hand_over(why)
            return
        for batch in (*self._under_way.values(), *self._drop_unsent()):
            fail(batch.done, ProduceError(why))

    # -- what waits for something else than Kafka

    def hold(self, places: Iterable[Where]) -> None:
        """Collect records of these partitions, but send none until `release`, or until they are late."""
        self._held.update(places)

    def release(self, places: Iterable[Where]) -> None:
        self._held.difference_update(places)
        self._flush_now()

    def take_back(self, places: Collection[Where], why: str) -> None:
        """What was held of these partitions goes to the rescue."""
        self._held.difference_update(places)
        assert self._rescue is not None
        self._rescue(self._drop_unsent(places=places), why)

    def _hand_over(self, why: str, first: Sequence[Batch] = ()) -> None:
        """Give all that waits to the rescue, and the producer up. `first`: what is older than all that is known."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.closed = True
            self.problem = why
            self.connected.clear()
            self._broken.set()
        batches = [*first, *self._under_way.values(), *self._drop_unsent()]
        self._under_way.clear()
        self._late.clear()
        self.pending_bytes = self._open_bytes = 0
        self._idle.set()
        assert self._rescue is not None
        self._rescue(batches, why)

    # -- batches

    def _new_batch(self, where: Where) -> Batch:
        batch = self._open[where] = Batch(where, self._loop.create_future(), time.monotonic())
        return batch

    def _flush_now(self) -> None:
        if not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send the oldest batch of every partition that has none under way; the others go when theirs is acked."""
        self._flush_soon = False
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        if self._sender is None:
            return
        self._open_bytes = 0
        waiting = [*self._full, *(where for where in self._open if where not in self._full)]
        records, batches = self._send(waiting)
        self._late = {where for where in waiting if where in self._open}
        if batches:
            self._linger.flushed(records, batches, time.monotonic())

    def _flush_late(self) -> None:
        """After acks: send what has waited for them. The rest goes on collecting until its linger is over."""
        self._late_soon = False
        if self._sender is not None:
            ready = [where for where in (*self._full, *self._late) if where not in self._under_way]
            self._send(ready)
            self._late.intersection_update(self._open)

    def _send(self, places: Iterable[Where]) -> tuple[int, int]:
        """Send the oldest batch of each of these partitions that need not wait; -> records, batches."""
        sender = self._sender
        assert sender is not None
        records = 0
        batches: list[Batch] = []
        now_s = time.monotonic()
        for where in places:
            if where in self._under_way or where in self._held or not sender.takes(where):
                continue
            if full := self._full.get(where):
                batch = full.pop(0)
                if not full:
                    del self._full[where]
            elif where in self._open:
                batch = self._open.pop(where)
            else:
                continue
            batch.sent_s = now_s
            self._under_way[where] = batch
            records += batch.events
            batches.append(batch)
        sender.send(batches)
        return records, len(batches)

    def _finish(self, batch: Batch, error: BaseException | None) -> None:
        """The batch is with Kafka, or lost: nothing of it is in memory any more."""
        if self._under_way.get(batch.where) is not batch:
            return  # given up with the sender it was in
        del self._under_way[batch.where]
        self.pending_bytes -= batch.bytes
        if error is None:
            self._observer.produced(time.monotonic() - batch.sent_s)
            if not batch.done.done():
                batch.done.set_result(None)
        else:
            self._observer.failed(bool(getattr(error, "retriable", False)))
            log.warning("%s[%d]: %d records were not acked: %r", *batch.where, batch.events, error)
            failure = ProduceError(f"Kafka did not take the batch: {type(error).__name__}")
            failure.__cause__ = error
            if self._rescue is not None and not isinstance(error, REFUSED):
                self._hand_over(str(failure), [batch])
                return
            fail(batch.done, failure)
            if self._rescue is not None:
                self._hand_over("the Kafka producer broke and is replaced")
                return
            if self._ordered:
                self._fail_behind(batch.where, error)
            # A batch that failed leaves a gap in its partition's sequence numbers: Kafka would refuse all later ones.
            self._broken.set()
        if not self.pending_bytes:
            self._idle.set()
        if (self._late or self._full) and not self._late_soon:
            self._late_soon = True
            self._loop.call_soon(self._flush_late)

    def _fail_behind(self, where: Where, cause: BaseException | None = None) -> None:
        behind = self._full.pop(where, [])
        if (batch := self._open.pop(where, None)) is not None:
            behind.append(batch)
        for batch in behind:
            self.pending_bytes -= batch.bytes
            failure = ProduceError("a batch before it failed")
            failure.__cause__ = cause
            fail(batch.done, failure)

    def _unsent(self) -> Iterable[Batch]:
        for full in self._full.values():
            yield from full
        yield from self._open.values()

    def _drop_unsent(
        self, opened_before_s: float = float("inf"), places: Collection[Where] | None = None
    ) -> list[Batch]:
        """Those that are so old, of these partitions or of all."""
        dropped = [
            batch
            for batch in self._unsent()
            if batch.opened_s < opened_before_s and (places is None or batch.where in places)
        ]
        for batch in dropped:
            full = self._full.get(batch.where, [])
            if batch in full:
                full.remove(batch)
                if not full:
                    del self._full[batch.where]
            else:
                del self._open[batch.where]
            self.pending_bytes -= batch.bytes
        return dropped

    # -- background

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            waiting = sum(b.events for b in (*self._under_way.values(), *self._unsent()))
            self._observer.waiting(waiting, self.pending_bytes)
            before_s = time.monotonic() - self._timeout_s
            late = [b for b in self._under_way.values() if b.opened_s < before_s and not b.done.done()]
            if self._rescue is not None:
                if late:
                    self._observer.failed(True)
                    self._hand_over(f"Kafka did not ack within {self._timeout_s:g} s")
                elif places := {b.where for b in self._unsent() if b.opened_s < before_s}:  # they were held too long
                    self.take_back(places, "the spool's end took too long")
                continue
            late += self._drop_unsent(before_s)
            for batch in late:
                self._observer.failed(True)
                fail(batch.done, ProduceError(f"Kafka did not ack within {self._timeout_s:g} s"))
                if self._ordered:
                    self._fail_behind(batch.where)
            if late:
                log.warning("Kafka did not ack %d records within %g s", sum(b.events for b in late), self._timeout_s)

    async def _connect(self) -> None:
        """Keep a working producer; replace it when it is broken. Ends at a cancellation, or soon after `stop` began:
        aiokafka's client swallows one that comes while it is being closed."""
        attempt = 0
        while not self._stopping:
            sender = Sender(
                self._bootstrap, client_id=self._client_id, timeout_s=self._timeout_s, finished=self._finish
            )
            try:
                try:
                    # Bounded: each of its steps waits for answers, and some are repeated.
                    async with asyncio.timeout(self._timeout_s * 2 + 5):
                        found = await sender.start(self._expected)
                    self._partitions = self._fitting(found)
                except (KafkaError, OSError, TimeoutError, TopicError, ValueError, OverflowError) as e:
                    problem = str(e) if isinstance(e, TopicError) else f"Kafka at {self._bootstrap} can't be reached"
                    if problem != self.problem:
                        log.warning("%s (%s)", problem, type(e).__name__)
                    self.problem, self.misfit, self.tried = problem, isinstance(e, PartitionsError), True
                    await self._close(sender)
                    await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
                    attempt += 1
                    continue
                attempt = 0
                if self._stopping:
                    await self._close(sender)
                    return
                self._sender, self.problem, self.misfit, self.tried = sender, "", False, True
                log.info("connected to Kafka at %s", self._bootstrap)
                self._broken.clear()
                self.connected.set()
                self._flush()  # what was collected for the producer before this one
                await self._broken.wait()
                self._sender, self.problem = None, self.problem or "the Kafka producer broke and is replaced"
                self.connected.clear()
                log.warning("%s", self.problem)
                if under_way := [batch.done for batch in self._under_way.values()]:
                    # One refused batch breaks its own partition's sequence only: the others may still be acked.
                    await asyncio.wait(under_way, timeout=min(ANSWERS_S, self._timeout_s))
                await self._close(sender)
            except asyncio.CancelledError:
                if sender is not self._sender:  # else `stop` closes it
                    await self._close(sender)
                raise
            # Whether Kafka has what was under way nobody knows.
            for batch in [*self._under_way.values()]:
                self._finish(batch, KafkaError("its producer was replaced"))
            await asyncio.sleep(RECONNECT_S[0])

    def _fitting(self, found: dict[str, int]) -> dict[str, int]:
        """Raises TopicError if topics or partitions are not as expected."""
        for topic, expected in self._expected.items():
            count = found.get(topic)
            if count is None:
                raise TopicError(f"topic {topic} is missing: run `tracker topics create`")
            if expected is not None and count != expected:
                raise PartitionsError(f"topic {topic} has {count} partitions, the setting `partitions` says {expected}")
        return found

    @staticmethod
    async def _close(sender: Sender) -> None:
        """Bounded: a broker that has frozen does not say goodbye."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await sender.close()
