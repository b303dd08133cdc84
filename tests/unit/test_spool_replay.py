"""A pass over the spool: partitions that fail, records that are refused, the way back to Kafka.

Kafka is played by `Topic`, because a partition without a leader takes several brokers. With the real one:
tests/integration/test_spool_faults.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from tracker.contract.batch import Where
from tracker.contract.producer import KafkaOut, ProduceError
from tracker.spool.folder import Folder
from tracker.spool.format import Record, encode
from tracker.spool.replay import Handover, Replay

TOPIC = "events"


class Topic:
    """What of KafkaOut a replay uses. A partition in `away` takes nothing, a value in `refused` is never taken."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.away: set[int] = set()
        self.refused: set[bytes] = set()

    def partitions(self, topic: str) -> int:
        return 4

    def append(
        self, topic: str, key: bytes | None, value: bytes, timestamp_ms: int, partition: int
    ) -> asyncio.Future[None]:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if partition in self.away or value in self.refused:
            error = ProduceError("no")
            error.__cause__ = MessageSizeTooLargeError() if value in self.refused else TimeoutError()
            ack.set_exception(error)
        else:
            self.stored.append(value)
            ack.set_result(None)
        return ack


class Live:
    """The same of the live producer: notes what it is told."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.told: list[tuple[str, set[Where]]] = []

    def hold(self, places: Iterable[Where]) -> None:
        self.told.append(("hold", set(places)))

    def release(self, places: Iterable[Where]) -> None:
        self.told.append(("release", set(places)))

    def take_back(self, places: Collection[Where], why: str) -> None:
        self.told.append(("take back", set(places)))


class Bench:
    """A folder and what it is sent to; each `send` is one pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = self.open()
        self.topic, self.live = Topic(), Live()
        self.refused: set[Where] = set()
        self.spooled: set[Where] = set()
        self.on_flush: list[Record] = []
        """What is still on its way to the disk when the end is reached."""

    def open(self) -> Folder:
        return Folder(self.path, segment_bytes=700, corrupt_bytes=1000).open()

    def restart(self) -> None:
        self.folder.close()
        self.folder = self.open()

    def write(self, *records: Record) -> None:
        self.folder.append([encode(r.topic.encode(), *r[1:]) for r in records], len(records), records[0].timestamp_ms)
        self.spooled |= {(r.topic, r.partition) for r in records}

    async def _flushed(self) -> None:
        if self.on_flush:
            self.write(*self.on_flush)
            self.spooled.clear()  # they were on their way before it was asked for

    async def send(self, handover: bool = False) -> bool:
        async def now(do: Any, *args: Any) -> Any:
            return do(*args)

        live = cast("KafkaOut", self.live)
        back = Handover(live, self.spooled, self.folder, self._flushed) if handover else None
        out = cast("KafkaOut", self.topic)
        return await Replay(self.folder, out, back, cast("Any", now), self.refused, lambda *_: 0.0).run()

    def of(self, partition: int) -> list[int]:
        """Numbers of the records of a partition that are stored."""
        return [int(value) // 10 for value in self.topic.stored if int(value) % 10 == partition]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("tracker.spool.replay.CHUNK_BYTES", 300)  # some three records
    return Bench(tmp_path)


def record(n: int, partition: int) -> Record:
    return Record(TOPIC, partition, 1_000_000 + n, None, b"%d" % (n * 10 + partition))


def test_all_is_sent_in_order_and_then_the_folder_is_empty(bench: Bench) -> None:
    bench.write(*(record(n, n % 3) for n in range(60)))
    assert asyncio.run(bench.send())
    assert [bench.of(p) for p in range(3)] == [list(range(p, 60, 3)) for p in range(3)]
    assert (bench.folder.bytes, bench.folder.records) == (0, 0)
    assert asyncio.run(bench.send())
    assert len(bench.topic.stored) == 60


@pytest.mark.parametrize("restarted", [False, True])
def test_a_partition_that_fails_holds_up_no_other_and_goes_on_where_it_stopped(bench: Bench, restarted: bool) -> None:
    bench.write(*(record(n, n % 3) for n in range(30)))
    bench.topic.away = {1}
    assert not asyncio.run(bench.send())
    assert (bench.of(0), bench.of(1), bench.of(2)) == (list(range(0, 30, 3)), [], list(range(2, 30, 3)))
    if restarted:
        bench.restart()
        assert bench.folder.places == {(TOPIC, 1)}
    bench.write(*(record(n, n % 3) for n in range(30, 45)))
    assert not asyncio.run(bench.send())  # still away; the new ones of the others are sent
    assert (bench.of(0), bench.of(1), bench.of(2)) == (list(range(0, 45, 3)), [], list(range(2, 45, 3)))
    if restarted:
        bench.restart()
    bench.topic.away = set()
    assert asyncio.run(bench.send())
    assert [bench.of(p) for p in range(3)] == [list(range(p, 45, 3)) for p in range(3)]
    assert bench.folder.bytes == 0


def test_partitions_that_fail_in_turns_lose_and_repeat_nothing(bench: Bench) -> None:
    bench.write(*(record(n, n % 4) for n in range(80)))
    for away in ({0, 1}, {1, 2}, {0, 2}, {1}, {3}):
        bench.topic.away = away
        asyncio.run(bench.send())
    bench.topic.away = set()
    assert asyncio.run(bench.send())
    assert [bench.of(p) for p in range(4)] == [list(range(p, 80, 4)) for p in range(4)]


def test_records_that_kafka_refuses_are_set_aside_and_all_others_sent(bench: Bench) -> None:
    bench.write(*(record(n, n % 2) for n in range(20)))
    bench.topic.refused = {record(4, 0).value, record(6, 0).value, record(7, 1).value}
    passes = 1
    while not asyncio.run(bench.send()):
        passes += 1
        assert passes < 10
    assert [*dict.fromkeys(bench.of(0))] == [n for n in range(0, 20, 2) if n not in (4, 6)]
    assert [*dict.fromkeys(bench.of(1))] == [n for n in range(1, 20, 2) if n != 7]
    assert len([*bench.path.glob("*.corrupt")]) == 3
    assert bench.refused == set()


def test_a_partition_that_takes_all_again_is_sent_in_batches_again(bench: Bench) -> None:
    bench.write(*(record(n, 0) for n in range(5)))
    bench.refused.add((TOPIC, 0))
    assert asyncio.run(bench.send())
    assert bench.of(0) == list(range(5))
    assert bench.refused == set()


def test_new_records_wait_from_the_end_of_the_spool_until_its_last_is_acked(bench: Bench) -> None:
    bench.write(*(record(n, n % 2) for n in range(10)))
    bench.on_flush = [record(n, n % 2) for n in range(10, 20)]
    assert asyncio.run(bench.send(handover=True))
    assert [bench.of(p) for p in range(2)] == [list(range(p, 20, 2)) for p in range(2)]
    both = {(TOPIC, 0), (TOPIC, 1)}
    assert bench.live.told == [("hold", both), ("release", both)]
    assert bench.spooled == set()


def test_what_was_held_goes_behind_the_spool_when_its_end_fails(bench: Bench) -> None:
    bench.write(*(record(n, n % 2) for n in range(10)))
    bench.on_flush = [record(n, n % 2) for n in range(10, 20)]

    async def fails_at_the_end() -> bool:
        bench.live.hold = lambda places: bench.topic.away.add(1)  # type: ignore[method-assign]
        return await bench.send(handover=True)

    assert not asyncio.run(fails_at_the_end())
    assert bench.live.told == [("take back", {(TOPIC, 1)}), ("release", {(TOPIC, 0)})]
    assert bench.spooled == {(TOPIC, 1)}
    bench.topic.away = set()
    assert asyncio.run(bench.send())
    assert [bench.of(p) for p in range(2)] == [list(range(p, 20, 2)) for p in range(2)]


def test_a_kafka_that_is_away_again_ends_the_pass(bench: Bench) -> None:
    bench.write(*(record(n, n % 2) for n in range(40)))
    bench.topic.away = {0, 1}
    bench.live.connected.clear()
    with pytest.raises(ProduceError, match="away again"):
        asyncio.run(bench.send(handover=True))
    assert bench.folder.records == 40
    assert bench.live.told == []
