"""Stamps of chunks: what happens to records when a second look in the same fetch fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import NoOffsetForPartitionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.pace import Pace
from stream.transport import ChunkConsumerThread

AHEAD, REST = TP("first", 0), TP("other", 0)
CONSUMER: Any = SimpleNamespace(_fetcher=SimpleNamespace())


async def test_records_of_one_topic_are_kept_when_another_has_no_position_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka has stepped past them: dropped, the next chunk would seem to follow the one before them."""
    log = [SimpleNamespace(offset=n, value=b"1234") for n in range(6)]

    async def fetch(self: Any, consumer: Any, tps: set[TP], timeout: Any, max_records: Any) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        if REST in tps:
            raise NoOffsetForPartitionError({REST: None})
        taken, log[:3] = log[:3], []
        return {AHEAD: taken}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    thread = made([AHEAD, REST])
    offsets: list[int] = []
    expected = 0
    for _ in range(6):
        for (fetched,) in (await thread._fetch_records(CONSUMER, {AHEAD, REST}, 1.0, 100)).values():
            (chunk,) = fetched.chunks
            assert (chunk.base, chunk.size) == (expected, 12)
            offsets += [record.offset for record in chunk.records]
            expected = chunk.next
    assert offsets == [0, 1, 2, 3, 4, 5]


async def test_the_chunks_of_a_topic_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [TP("first", 0), TP("first", 1), TP("other", 0), TP("other", 1)]

    async def fetch(self: Any, consumer: Any, tps: set[TP], timeout: Any, max_records: Any) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        return {tp: [SimpleNamespace(offset=n, value=b"") for n in range(2)] for tp in places if tp in tps}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    found = await made(places)._fetch_records(CONSUMER, set(places), 1.0, 100)
    assert {tp.topic: [chunk.tp for chunk in message.chunks] for tp, (message,) in found.items()} == {
        "first": places[:2], "other": places[2:],
    }  # fmt: skip


async def test_the_topic_that_is_read_first_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the other has meanwhile: else a hop with a backlog would keep all that it passes on from being seen."""
    waiting = {AHEAD: 240, REST: 1_000}
    looks: list[str] = []

    async def fetch(self: Any, consumer: Any, tps: set[TP], timeout: Any, max_records: Any) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        found = {}
        for tp in tps:
            n = min(waiting[tp], max_records)
            waiting[tp] -= n
            if n:
                looks.append(f"{n} {tp.topic}")
            found[tp] = [SimpleNamespace(offset=0, value=b"") for _ in range(n)]
        return found

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    thread = made([AHEAD, REST])
    for _ in range(5):
        await thread._fetch_records(CONSUMER, {AHEAD, REST}, 1.0, 100)
    assert looks == ["100 first", "100 first", "40 first", "100 other", "100 other", "100 other"]


def made(places: list[TP]) -> Any:
    """A thread that reads these partitions, each from its beginning."""
    thread = cast(Any, ChunkConsumerThread.__new__(ChunkConsumerThread))
    transport = SimpleNamespace(first=AHEAD.topic, max_backlog_records=100, max_backlog_bytes=100)
    thread.consumer = SimpleNamespace(transport=transport)
    thread.claimed, thread.full, thread.backlog, thread.backlog_bytes = set(places), set(), 0, 0
    thread.generations, thread.positions = dict.fromkeys(places, 1), dict.fromkeys(places, 0)
    thread._pace = Pace(0.1, 0.08)
    return thread
