"""Lanes: a partition that is dropped while its chunk is under way, and a chunk that never arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from faust.types import TP
from redis.exceptions import ConnectionError as RedisConnectionError

from stream import lanes as module
from stream.lanes import Lanes
from stream.redis_store import Lost
from stream.transport import Chunk
from stream.watchdog import Progress
from tests.harness import eventually
from tracker.contract.producer import ProduceError

TP0 = TP("t", 0)


class Partition:
    """What Redis and Kafka would hold of one partition: `length` records, an epoch, the offset to go on at."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.epoch = self.next = self.claims = 0
        self.taken: list[int] = []
        """Records of each chunk."""
        self.gate = asyncio.Event()
        self.gate.set()


class SlowHop:
    """A hop of the partition whose chunks take as long as its gate is closed, and that is fenced by its epoch."""

    head_key = "head"

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.next = self.epoch = 0

    async def claim(self, first: int | None) -> int | None:
        self.partition.epoch += 1
        self.partition.claims += 1
        self.epoch, self.next = self.partition.epoch, self.partition.next
        return self.next

    async def process(self, chunk: Chunk) -> int:
        await self.partition.gate.wait()
        if self.epoch != self.partition.epoch:
            raise Lost("epoch")
        self.next = self.partition.next = chunk.next
        self.partition.taken.append(len(chunk.records))
        return len(chunk.records)


class Reader:
    """The consumer's thread, as far as lanes see it, reading one partition."""

    _consumer = object()
    settled = True
    away = False

    def __init__(self) -> None:
        self.generations: dict[TP, int] = {}
        self.positions: dict[TP, int] = {}
        self.full: set[TP] = set()
        self.backlog = 0

    def disclaim(self, tp: TP) -> None:
        pass

    def assignment(self) -> set[TP]:
        return {TP0}

    async def claim(self, offsets: dict[TP, int]) -> dict[TP, int]:
        for tp, offset in offsets.items():
            self.positions[tp] = offset
            self.generations[tp] = self.generations.get(tp, 0) + 1
        return {tp: self.generations[tp] for tp in offsets}

    def fetch(self, count: int) -> Chunk:
        """The next records."""
        base = self.positions[TP0]
        records = [SimpleNamespace(offset=base + n) for n in range(count)]
        chunk = Chunk(TP0, self.generations[TP0], base, records)
        self.positions[TP0] = chunk.next
        return chunk


class Redis:
    """The head, for the check of idle partitions."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition

    async def run(self, *command: Any) -> bytes:
        return str(self.partition.next).encode()

    failed_s = -inf

    def silent_s(self) -> float:
        return 0.0

    silent: frozenset[str] = frozenset()

    asked_silent = 0
    """How often one that does not answer was waited for."""

    async def renew_log(self, but: Set[Any]) -> frozenset[str]:
        self.asked_silent += len(self.silent - but)
        return self.silent - but

    def place(self, key: str) -> str:
        return key


def make(partition: Partition) -> tuple[Lanes, Reader]:
    def fatal(reason: str) -> None:
        raise AssertionError(reason)

    lanes = Lanes(cast(Any, Redis(partition)), cast(Any, None), {"t": ("resolve", lambda p: SlowHop(partition))}, fatal)
    reader = Reader()
    lanes.thread = lambda: cast(Any, reader)
    return lanes, reader


async def with_three_under_way(length: int) -> tuple[Partition, Lanes, Reader]:
    """A lane that is busy with a chunk of three records, until the partition's gate is opened."""
    partition = Partition(length)
    lanes, reader = make(partition)
    await lanes._try_claim()
    partition.gate.clear()
    lanes.put(reader.fetch(3))
    await eventually(lambda: lanes.lanes[TP0].busy)
    return partition, lanes, reader


async def test_a_chunk_of_a_dropped_lane_that_fails_late_does_not_drop_the_lane_that_came_after_it() -> None:
    partition, lanes, reader = await with_three_under_way(10)
    old = lanes.lanes[TP0]
    await lanes.on_assigned()
    await lanes._try_claim()
    new = lanes.lanes[TP0]
    assert new is not old
    partition.gate.set()
    await eventually(lambda: old.task is not None and old.task.done())
    assert lanes.lanes.get(TP0) is new
    lanes.put(reader.fetch(5))
    await eventually(lambda: partition.next == 5)
    assert partition.claims == 2
    assert lanes.done == {TP0: 5}  # what Faust commits
    await lanes.finish(0)


async def test_chunks_that_wait_go_on_as_one() -> None:
    partition, lanes, reader = await with_three_under_way(20)
    for count in (2, 4, 1):
        lanes.put(reader.fetch(count))
    assert TP0 in reader.full
    assert reader.backlog == 7
    partition.gate.set()
    await eventually(lambda: partition.next == 10)
    assert partition.taken == [3, 7]
    assert not reader.full
    assert reader.backlog == 0
    assert partition.claims == 1
    await lanes.finish(0)


async def test_a_chunk_that_does_not_follow_is_not_joined_to_those_before_it() -> None:
    """Records between them would be passed over: what comes before goes on, then the partition is claimed again."""
    partition, lanes, reader = await with_three_under_way(20)
    lanes.put(reader.fetch(2))
    reader.fetch(4)  # lost on its way
    lanes.put(reader.fetch(1))
    partition.gate.set()
    await eventually(lambda: TP0 not in lanes.lanes)
    assert partition.taken == [3, 2]
    assert partition.next == 5
    assert reader.backlog == 0
    await lanes.finish(0)


@pytest.mark.parametrize("says_so", [False, True], ids=["calls fail", "the node does not answer"])
async def test_partitions_of_a_node_that_is_away_hold_up_no_other(says_so: bool) -> None:
    """More of them than are claimed together, and first in order."""

    class Hop(SlowHop):
        def __init__(self, p: int) -> None:
            super().__init__(Partition(10))
            self.head_key = "away" if p < 6 else "here"
            self.away = p < 6

        async def claim(self, first: int | None) -> int | None:
            if self.away:
                raise RedisConnectionError("away")
            return await super().claim(first)

    lanes, reader = make(Partition(10))
    lanes._hops = {"t": ("resolve", Hop)}
    lanes._store.silent = frozenset({"away"} if says_so else ())  # type: ignore[attr-defined]
    reader.assignment = lambda: {TP("t", p) for p in range(9)}  # type: ignore[method-assign]
    for _ in range(4):
        await lanes._try_claim()
    assert {tp.partition for tp in lanes.lanes} == {6, 7, 8}
    # It is waited for once in a round, not with every few partitions.
    assert lanes._store.asked_silent == (4 if says_so else 0)  # type: ignore[attr-defined]
    await lanes.finish(0)


@pytest.mark.parametrize("others", [0, 2], ids=["alone", "beside others"])
async def test_a_partition_that_another_takes_in_the_middle_of_a_claim_is_claimed_again(others: int) -> None:
    """Of hop 1 the log is read between two steps of a claim: seconds, in which a rebalance may give it to another."""
    taken = True

    class Hop(SlowHop):
        def __init__(self, p: int) -> None:
            super().__init__(Partition(10))
            self.p = p

        async def claim(self, first: int | None) -> int | None:
            if self.p == 0 and taken:
                raise Lost("epoch")
            return await super().claim(first)

    lanes, reader = make(Partition(10))
    lanes._hops = {"t": ("resolve", Hop)}
    reader.assignment = lambda: {TP("t", p) for p in range(1 + others)}  # type: ignore[method-assign]
    await lanes._try_claim()
    assert {tp.partition for tp in lanes.lanes} == set(range(1, 1 + others))
    taken = False
    await lanes._try_claim()
    assert TP0 in lanes.lanes
    await lanes.finish(0)


async def test_a_head_that_went_back_is_found_though_another_node_is_away() -> None:
    here = Partition(10)
    lanes, reader = make(here)

    def hop(p: int) -> SlowHop:
        made = SlowHop(here)
        made.head_key = ("away", "here")[p]
        return made

    async def run(command: str, key: str, field: str) -> bytes:
        if key == "away":
            raise RedisConnectionError(key)
        return str(here.next).encode()

    lanes._hops = {"t": ("resolve", hop)}
    lanes._store.run = run  # type: ignore[assignment, method-assign]
    reader.assignment = lambda: {TP("t", 0), TP("t", 1)}  # type: ignore[method-assign]
    await lanes._try_claim()
    here.next = -1
    with pytest.raises(RedisConnectionError):
        await lanes._check_heads()
    assert lanes.lanes.keys() == {TP("t", 0)}
    await lanes.finish(0)


async def test_a_lane_that_waited_for_what_was_cancelled_is_claimed_again() -> None:
    partition = Partition(10)
    lanes, reader = make(partition)
    await lanes._try_claim()
    cancelled: Any = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    partition.gate = SimpleNamespace(wait=lambda: cancelled)  # type: ignore[assignment]
    lanes.put(reader.fetch(3))
    await eventually(lambda: TP0 not in lanes.lanes)
    partition.gate = asyncio.Event()
    partition.gate.set()
    await lanes._try_claim()
    lanes.put(reader.fetch(3))
    await eventually(lambda: partition.next == 3)
    await lanes.finish(0)


async def test_what_waited_in_dropped_lanes_holds_up_nobody() -> None:
    """The consumer fetches nothing while too much waits: it must hear that it does not any more."""
    partition = Partition(10)
    lanes, reader = make(partition)
    await lanes._try_claim()
    partition.gate.clear()
    for _ in range(3):
        lanes.put(reader.fetch(2))
    assert reader.backlog > 0
    lanes.drop([TP0])
    assert reader.backlog == 0
    partition.gate.set()
    await lanes.finish(0)


async def test_a_lane_that_is_dropped_while_it_is_busy_ends_after_its_chunk() -> None:
    partition, lanes, _ = await with_three_under_way(10)
    lane = lanes.lanes[TP0]
    lanes.drop([TP0])
    partition.gate.set()
    await eventually(lambda: lane.task is not None and lane.task.done())
    assert partition.next == 3


async def test_a_last_chunk_that_vanishes_on_its_way_is_fetched_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "CHECK_EVERY_S", 0.05)
    partition = Partition(3)
    lanes, reader = make(partition)
    keeping = asyncio.create_task(lanes.keep())
    await eventually(lambda: TP0 in lanes.lanes)
    reader.fetch(3)  # Given to nobody, and no other will ever come.
    await eventually(lambda: partition.claims == 2)
    await eventually(lambda: TP0 in lanes.lanes)
    lanes.put(reader.fetch(3))
    await eventually(lambda: partition.next == 3)
    keeping.cancel()
    await lanes.finish(0)


def test_a_claim_that_reads_a_long_log_does_not_stand_still() -> None:
    """After a backup hours of the log may be read: longer than stuck_s."""
    lanes, _ = make(Partition(10))
    progress, read = Progress[TP](), 0
    lanes.recovered = lambda: read
    for now_s in range(0, 400, 100):
        read += 1
        stalled_s, _ = progress.look(now_s, lanes.standings(), False)
        assert stalled_s == 0
    assert progress.look(500, lanes.standings(), False) == (200, TP0)


def test_a_record_that_kafka_refuses_is_no_outage() -> None:
    """Kafka is there: the watchdog must see that the partition does not get on."""
    lanes = Lanes(cast(Any, SimpleNamespace(failed_s=-inf)), cast(Any, None), {}, lambda reason: None)
    refused = ProduceError("Kafka did not take the batch")
    refused.__cause__ = MessageSizeTooLargeError()
    lanes._note(refused)
    assert not lanes.outage
    lanes._note(ProduceError("Kafka did not ack"))
    assert lanes.outage
