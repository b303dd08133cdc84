"""The job of job.py on this project's engine: the worker's app, transport and lanes, with one hop that counts.

One Lua call a chunk writes its counters and the offset after it (ours.lua), as apply.lua does in the worker.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import uvloop
from aiokafka import AIOKafkaConsumer

from bench.peers.job import Key, Task, decode, say, task, write
from stream.lanes import Lanes
from stream.redis_store import Head, Store
from stream.transport import Chunk, ChunkSchema
from stream.worker import make_app
from tracker.contract.loading import load

SCRIPT = "ours"


class Progress:
    """Events of all partitions that had their effect.

    Marked before the first one, not after `warm`: chunks of all partitions are under way at once, and at any later
    mark much of the work on events that count after it would be done.
    """

    def __init__(self, job: Task) -> None:
        self._job = job
        self._marked = False
        self.seen = 0
        self.done = asyncio.Event()

    def begin(self) -> None:
        if not self._marked:
            self._marked = True
            say("mark", 0)

    def add(self, n: int) -> None:
        self.seen += n
        if self.seen >= self._job.events:
            say("done", self.seen)
            self.done.set()


class CountHop:
    """The job for one partition, while this process owns it."""

    def __init__(self, partition: int, store: Store, progress: Progress) -> None:
        self.head_key = f"{{n{partition}}}:head"
        self.next = 0
        self._head = Head(store, self.head_key)
        self._progress = progress

    async def claim(self, first: int | None) -> int | None:
        next = await self._head.claim(first)
        if next is not None:
            self.next = next
        return next

    async def process(self, chunk: Chunk) -> int:
        counts: dict[int, dict[str, int]] = {}
        for record in chunk.records:
            event = decode(record.value)
            at_s = event.timestampMs // 1000
            of_minute = counts.setdefault(at_s - at_s % 60, {})
            of_minute[event.anonymousId] = of_minute.get(event.anonymousId, 0) + 1
        flat = [(minute, list(of), list(of.values())) for minute, of in counts.items()]
        await self._head.write(SCRIPT, [self._head.epoch, self._head.seq, self.next, chunk.next, flat])
        self.next = chunk.next
        self._progress.add(len(chunk.records))
        return len(chunk.records)


async def main() -> None:
    job = task(sys.argv)
    group, url = job.rest
    settings = load({}, kafka=job.bootstrap, redis=url, group=group)
    store = Store(url)
    store._sources[SCRIPT] = Path(__file__).with_name("ours.lua").read_text("utf-8")
    await store.start()
    offsets = AIOKafkaConsumer(bootstrap_servers=job.bootstrap)
    await offsets.start()
    progress = Progress(job)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lanes = Lanes(
        store, offsets, {job.topic: ("count", lambda p: CountHop(p, store, progress))},
        lambda reason: failed.set_exception(SystemExit(reason)),
    )  # fmt: skip
    app = make_app(settings)
    lanes.thread = lambda: app.consumer._thread if app.started and app.consumer is not None else None  # type: ignore[attr-defined]
    transport: Any = app.transport
    transport.done = lanes.done
    transport.on_assigned = lanes.on_assigned

    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            progress.begin()
            for chunk in event.value.chunks:
                lanes.put(chunk)
            event.ack()

    app.agent(app.topic(job.topic, schema=ChunkSchema(), allow_empty=True), name=job.topic, concurrency=1)(agent)
    ends: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(part) for part in (failed, progress.done.wait(), lanes.keep(), app.start())
    ]
    await asyncio.wait(ends[:3], return_when=asyncio.FIRST_COMPLETED)
    if not progress.done.is_set():
        await asyncio.gather(*ends[:3])
    write(job.out, counters(url))
    os._exit(0)  # Stopping Faust takes longer than the measurement.


def counters(url: str) -> Iterator[tuple[Key, int]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in client.scan_iter(match="{n*}:?:*", count=1000):
            tier, start_s = key.split(":")[1:]
            for visitor, n in client.hgetall(key).items():
                yield (tier, int(start_s), visitor), int(n)


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 20)  # as `tracker worker`
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
