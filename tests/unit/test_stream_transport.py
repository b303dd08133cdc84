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


async def test_records_of_one_topic_are_kept_when_another_has_no_position_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka has stepped past them: dropped, the next chunk would seem to follow the one before them."""
    log = [SimpleNamespace(offset=n, value=b"1234") for n in range(6)]

    async def fetch(self: Any, consumer: Any, tps: set[TP], timeout: Any, max_records: Any) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        if REST in tps:
            raise NoOffsetForPartitionError({REST: None})
        taken, log[:3] = log[:3], []
        return {AHEAD: taken}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    thread = cast(Any, ChunkConsumerThread.__new__(ChunkConsumerThread))
    limits = SimpleNamespace(first=AHEAD.topic, max_backlog_records=100, max_backlog_bytes=50)
    thread.consumer = SimpleNamespace(transport=limits)
    thread.claimed, thread.full, thread.backlog, thread.backlog_bytes = {AHEAD, REST}, set(), 0, 51
    assert await thread._fetch_records(None, {AHEAD, REST}, 1.0, 100) == {}  # large records wait already
    thread.backlog_bytes = 0
    thread.generations, thread.positions = {AHEAD: 1, REST: 1}, {AHEAD: 0, REST: 0}
    thread._pace = Pace()
    offsets: list[int] = []
    expected = 0
    for _ in range(6):
        for (fetched,) in (await thread._fetch_records(None, {AHEAD, REST}, 1.0, 100)).values():
            (chunk,) = fetched.chunks
            assert (chunk.base, chunk.size) == (expected, 12)
            offsets += [record.offset for record in chunk.records]
            expected = chunk.next
    assert offsets == [0, 1, 2, 3, 4, 5]
