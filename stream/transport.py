"""Faust's transport for chunks: one Faust message = the chunks of a topic that one fetch brought, one a partition.

Stock Faust pays 65 us an event in its conductor before any work, of a message with other threads beside it 200 us; here
that is paid once a fetch. Agents, assignment and commits stay Faust's. `Chunk` is stamped in the consumer thread with
the generation of the last seek of its partition and the position before it, so that whoever receives it can tell what
lies between (see stream/lanes.py).

Private methods of faust-streaming 0.15.3 and aiokafka 0.14.0 are overridden; both are pinned exactly, and each override
says why. tests/integration/test_worker.py runs them against the real broker.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import aiokafka
import faust
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from stream.pace import Look, Pace

SCHEME = "chunks"
MOST_PAUSE_S = 0.02
"""Between two looks, while partitions are left out for now."""
PULSE_LIMIT_S = 15.0
"""The consumer thread keeps the group membership alive only while the main loop pulsed within this time."""


class Chunk:
    """Records of one partition, in order, as one fetch brought them."""

    __slots__ = ("base", "generation", "next", "records", "size", "tp")

    def __init__(self, tp: TP, generation: int, base: int, records: list[Any]) -> None:
        self.tp = tp
        self.generation = generation
        """Counts the seeks of the partition in this process: chunks of older ones are out of date."""
        self.base = base
        """Position before the first record: equal to `next` of the chunk before, or to the offset sought."""
        self.records = records
        self.next: int = records[-1].offset + 1
        self.size = 0
        """Bytes of the records' values."""


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of one generation, each of which follows the one before it, as one."""
    first = chunks[0]
    if len(chunks) == 1:
        return first
    chunk = Chunk(first.tp, first.generation, first.base, [record for part in chunks for record in part.records])
    chunk.size = sum(part.size for part in chunks)
    return chunk


class Fetched:
    """What one fetch brought of one topic: a chunk of each partition that had something."""

    __slots__ = ("chunks", "records")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.records = 0
        """How many, in all chunks."""

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.records += len(chunk.records)


class ChunkSchema(Schema[Any, Any]):
    """Passes the chunks through: decoding is done per chunk, and poison must reach us instead of being acked unseen."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return None

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.value


class _NeverFilters(dict[TP, Any]):
    """Stands for Consumer._read_offset, which would drop redelivered records: here the stamps decide instead."""

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: Any) -> None:
        pass


class ChunkConsumerThread(driver.AIOKafkaConsumerThread):
    """Owns the aiokafka consumer. Everything here but `__init__` state reads runs in the consumer's own thread."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generations: dict[TP, int] = {}
        self.positions: dict[TP, int] = {}
        self.claimed: set[TP] = set()
        self.full: set[TP] = set()
        """Partitions whose lanes have enough to do: not read until they drain, so that no lane holds up another."""
        self.backlog = 0
        """Records that wait in lanes; the lanes keep count."""
        self.backlog_bytes = 0
        self._pace: Pace
        self.pulse = time.monotonic()
        self.turned = time.monotonic()
        """When this thread's own loop last turned."""
        self.away = False
        """Whether the worker is to be out of its group. Set from the main loop."""
        self._keeper: asyncio.Task[None] | None = None

    async def on_start(self) -> None:
        # Chunks keep aiokafka's parsed records; a ConsumerRecord of each would cost 1.8 us more and is used nowhere.
        PartitionRecords._consumer_record = lambda _, tp, record: record
        await super().on_start()
        self._keeper = self.thread_loop.create_task(self._keep_polling())

    async def on_thread_stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        await super().on_thread_stop()

    async def _keep_polling(self) -> None:
        """aiokafka refuses to rejoin while the last fetch is older than max_poll_interval, and Faust stops fetching
        while partitions are revoked: blocked longer than that (Redis away) they wait for each other for ever.
        The same rule is how a worker leaves its group, and stays out of it until it polls again."""
        while True:
            await asyncio.sleep(1.0)
            self.turned = time.monotonic()
            if self._consumer is None:
                continue
            self._look_for_group_error(self._consumer)
            if self.away:
                self._consumer._subscription._last_fetch_ended = -math.inf
            elif time.monotonic() - self.pulse < PULSE_LIMIT_S:
                self._consumer._subscription._last_fetch_ended = time.monotonic()

    def _look_for_group_error(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        """aiokafka stops all that it does for its group until somebody has asked for its error; Faust never asks. The
        worker would stay outside, or keep partitions that are others' by now."""
        if (coordinator := consumer._coordinator) is None or consumer._closed:
            return
        try:
            coordinator.check_errors()
        except KafkaError as e:
            cast(Transport, self.consumer.transport).on_group_error(e)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        """As Faust's, but: no offset reset (Redis says where to go on), our fetch wait, no changelog assignor."""
        conf = self.app.conf
        self._pace = Pace(transport.fetch_max_wait_ms / 1000, transport.gather_ms / 1000)
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=transport.fetch_max_wait_ms,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
        )

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> dict[TP, list[Any]]:
        """One fetch as {a partition of each topic: [one Fetched]}. Partitions not claimed yet are not read: they have
        no position."""
        wanted = (self.claimed & set(active_partitions)) - self.full
        transport = cast(Transport, self.consumer.transport)
        too_much = self.backlog > transport.max_backlog_records or self.backlog_bytes > transport.max_backlog_bytes
        if not wanted or too_much:
            await asyncio.sleep(0.005)
            return {}
        ahead = {tp for tp in wanted if tp.topic == transport.first}
        rest = wanted - ahead
        enough = (max_records or 2) // 2
        found: dict[str, Fetched] = {}
        try:
            # What is there already, a topic at a time, the others once the first has no more; when that is nothing,
            # what comes next.
            now = time.monotonic()
            for tps, at_s in ((ahead, self._pace.ahead_at_s), (rest, self._pace.rest_at_s)):
                if tps and now >= at_s and _records(found.values()) < enough:
                    await self._look(found, consumer, tps, 0, max_records)
            if not _records(found.values()):
                pause_s = min(self._pace.ahead_at_s, self._pace.rest_at_s) - now
                if pause_s > 0:
                    await asyncio.sleep(min(pause_s, MOST_PAUSE_S))
                else:
                    # Partitions that were left out may be wanted any moment.
                    wait_s = MOST_PAUSE_S if self.full else timeout
                    await self._look(found, consumer, wanted, wait_s, max_records)
        except NoOffsetForPartitionError:
            pass  # A partition between its assignment and our seek; what another look brought before is kept.
        except OffsetOutOfRangeError as e:
            transport.on_out_of_range(e)
        of_first = [fetched for topic, fetched in found.items() if topic == transport.first]
        of_rest = [fetched for topic, fetched in found.items() if topic != transport.first]
        self._pace.fetched(_summed(of_first, enough), _summed(of_rest, enough), time.monotonic(), time.process_time())
        # aiokafka reads them for each request; by its options they are set once for all.
        fetcher, pace = consumer._fetcher, self._pace
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = pace.min_bytes, pace.wait_ms
        return {fetched.chunks[0].tp: [fetched] for fetched in found.values() if fetched.chunks}

    async def _look(
        self,
        found: dict[str, Fetched],
        consumer: aiokafka.AIOKafkaConsumer,
        tps: set[TP],
        wait_s: float | None,
        max_records: int | None,
    ) -> None:
        """Add to found {topic: what was brought of it} what aiokafka has of these partitions, or gets within wait_s.
        Each of their topics stands in it then, also when nothing came or this raises: it was looked at."""
        for topic in {tp.topic for tp in tps}:
            found.setdefault(topic, Fetched())
        for chunk in self._stamped(await super()._fetch_records(consumer, tps, wait_s, max_records)):
            found[chunk.tp.topic].add(chunk)

    def _stamped(self, fetched: Mapping[TP, list[Any]]) -> list[Chunk]:
        """Chunks of what a fetch brought. At once after it: a seek or an error between aiokafka's step forward and ours
        would make the next chunk look as if it followed the one before, and the records between would be lost."""
        chunks: list[Chunk] = []
        for tp, records in fetched.items():
            generation = self.generations.get(tp)
            if generation is None or not records:
                continue
            chunk = Chunk(tp, generation, self.positions[tp], records)
            self.positions[tp] = chunk.next
            chunk.size = sum([len(record.value) for record in records if record.value])
            chunks.append(chunk)
        return chunks

    def highwater(self, tp: TP) -> int:
        """Faust's, which would raise from its drain loop when the partition was just revoked."""
        return self.end(tp) or 0

    def end(self, tp: TP) -> int | None:
        """End of the partition's log as the last fetch told it; None before, and when it was revoked meanwhile:
        aiokafka asserts that it is assigned, which its own thread may just have changed."""
        try:
            return super().highwater(tp)
        except (AssertionError, AttributeError, KeyError):
            return None

    @property
    def joined(self) -> bool:
        """Whether the group has ever said which partitions are ours; they may be none."""
        coordinator = getattr(self._consumer, "_coordinator", None)
        return coordinator is not None and getattr(coordinator, "generation", -1) >= 0

    @property
    def settled(self) -> bool:
        """Whether `assignment` is what the group says: not while it deals out anew, nor once it has shut us out."""
        return self.joined and not self._ensure_consumer()._subscription.reassignment_in_progress

    async def claim(self, offsets: Mapping[TP, int]) -> dict[TP, int]:
        """Seek and start reading: {partition: its new generation}. Partitions no longer assigned are left out."""
        return cast(dict[TP, int], await self.call_thread(self._claim, offsets))

    async def _claim(self, offsets: Mapping[TP, int]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        claimed = {}
        for tp, offset in offsets.items():
            try:
                consumer.seek(tp, offset)
            except IllegalStateError:
                continue  # Revoked meanwhile.
            self.positions[tp] = offset
            claimed[tp] = self.generations[tp] = self.generations.get(tp, 0) + 1
            self.claimed.add(tp)
            self.full.discard(tp)
        return claimed

    def disclaim(self, tp: TP) -> None:
        """Read a partition no more until it is claimed again. From any thread: it takes one step under the GIL."""
        self.claimed.discard(tp)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """A commit only serves lag tools here: when it fails nothing is lost and nothing must crash. (Faust's own looks
        for "already rebalanced" in a text that has a newline there.)"""
        consumer = self._ensure_consumer()
        wanted = {driver.ensure_aiokafka_TP(tp): o for tp, o in offsets.items() if tp in consumer.assignment()}
        try:
            if wanted:
                await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError, KafkaError) as e:
            self.log.info("Commit skipped: %s", type(e).__name__)
            return False
        return True


def _records(looked: Iterable[Fetched]) -> int:
    return sum(fetched.records for fetched in looked)


def _summed(looked: Sequence[Fetched], enough: int) -> Look | None:
    """What was brought of some topics, as the pace is told it; None: they were not looked at."""
    if not looked:
        return None
    records = _records(looked)
    return Look(records, sum(len(fetched.chunks) for fetched in looked), records >= enough)


class Consumer(driver.Consumer):
    """Faust's consumer over chunks."""

    _thread: ChunkConsumerThread

    def on_init(self) -> None:
        super().on_init()
        self._read_offset = _NeverFilters()

    def _new_consumer_thread(self) -> ChunkConsumerThread:
        return ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        """A Fetched as one message, in the name of one of its partitions. Its offset says nothing: see `ack`."""
        last = record.chunks[0].records[-1]
        return ConsumerMessage(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000.0, last.timestamp_type, [], None, record,
            None, None, None, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def ack(self, message: Any) -> bool:
        """A message is done with once its chunks are in their lanes; what is committed, the lanes say."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter(tuple(cast(Transport, self.transport).done))

    def _new_offset(self, tp: TP) -> int | None:
        """Where the partition's lane is since the last commit."""
        return cast(Transport, self.transport).done.pop(tp, None)

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109
        """Faust's, but None while the flow is off: getmany would call perform_seek in the middle of a rebalance."""
        records, active = await super()._wait_next_records(timeout)
        return (records if self.flow_active else None), active

    async def perform_seek(self) -> None:
        """Called on every assignment: claim what is ours, from Redis. Never raises: a failure here would be taken for
        success, so the claimer tries again each second (stream/lanes.py)."""
        await cast(Transport, self.transport).on_assigned()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Between the offsets of two messages there is no gap to fill."""

    async def verify_all_partitions_active(self) -> None:
        """Faust's looks at stream times per message and raises false alarms; liveness is our watchdog's."""


class Transport(driver.Transport):
    """Transport of the scheme chunks://; the worker sets the attributes below after it made the app."""

    Consumer = Consumer
    fetch_max_wait_ms: int = 100
    gather_ms: int = 80
    max_backlog_records: int = 10_000
    max_backlog_bytes: int = 64 << 20
    first: str = ""
    """The topic that is read before all others: what a hop has written before what it may still read."""

    done: dict[TP, int]
    """Partition -> where its lane is, of those that went on since the last commit. Set by stream/worker.py, as all
    that follow."""
    on_assigned: Callable[[], Awaitable[None]]
    """After a rebalance: claims what is ours."""
    on_out_of_range: Callable[[OffsetOutOfRangeError], object]
    """Kafka no longer has the records to go on from. Called in the consumer's thread."""
    on_group_error: Callable[[KafkaError], object]
    """Kafka does not let us be in the group. Called in the consumer's thread."""


class App(faust.App):
    """Faust's, but it makes no folders: they are for tables, and there are none. A worker that is killed would leave
    them behind, and one in a container may have nowhere to write. (It stands here, for mode silences the logger of a
    module with such a class, and worker.py's tells why a worker ends.)"""

    def _create_directories(self) -> None:
        pass
