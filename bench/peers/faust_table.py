"""The job of job.py on stock Faust: a windowed Table a tier in memory, with changelog topics."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import faust
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.peers.job import TIERS, Key, decode, say, task, write

TOPICS_S = 30.0


async def changelogs(bootstrap: str, app: str, partitions: int) -> None:
    """Make the topics that Faust would make for its Tables, and wait for their leaders: Faust asks for their ends at
    once, and waits for ever where one has no leader yet."""
    topics = [f"{app}-visits-{tier}-changelog" for tier in TIERS]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
    finally:
        await admin.close()
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer, asyncio.timeout(TOPICS_S):
        # It asks again until all have a leader.
        await consumer.end_offsets([TopicPartition(topic, p) for topic in topics for p in range(partitions)])


async def main(folder: str) -> None:
    job = task(sys.argv)
    await changelogs(job.bootstrap, job.rest[0], int(job.rest[1]))
    app = faust.App(
        job.rest[0], broker=f"kafka://{job.bootstrap}", store="memory://", datadir=folder, web_enabled=False,
        topic_partitions=int(job.rest[1]), topic_disable_leader=True, consumer_auto_offset_reset="earliest",
        stream_wait_empty=False, worker_redirect_stdouts=False,
    )  # fmt: skip
    tables: dict[str, Any] = {
        tier: windowed(app.Table(f"visits-{tier}", default=int).tumbling(length_s)) for tier, length_s in TIERS.items()
    }
    done = asyncio.Event()
    minute, hour, day = tables.values()

    @app.agent(app.topic(job.topic, key_type=str, key_serializer="raw", value_type=bytes, value_serializer="raw"))
    async def count(stream: Any) -> None:
        seen = 0
        async for event in stream.events():
            event.value = decode(event.value)
            visitor = event.value.anonymousId
            minute[visitor] += 1
            hour[visitor] += 1
            day[visitor] += 1
            seen += 1
            if seen == job.warm:
                say("mark", seen)
            if seen == job.events:
                say("done", seen)
                done.set()

    done_soon = asyncio.create_task(done.wait())
    await app.start()
    while not done.is_set():
        if app.crashed:
            print(f"Faust crashed: {app.crash_reason!r}", file=sys.stderr, flush=True)
            os._exit(1)
        await asyncio.wait((done_soon,), timeout=1.0)
    write(job.out, ((key, n) for tier, table in tables.items() for key, n in counters(tier, table)))
    os._exit(0)  # Stopping Faust takes longer than the measurement.


def windowed(table: Any) -> Any:
    """By the event's own time instead of its record's."""
    return table.relative_to(lambda event: event.value.timestampMs / 1000)


def counters(tier: str, table: Any) -> Iterator[tuple[Key, int]]:
    for (visitor, (start_s, _)), n in table.table.items():
        yield (tier, int(start_s), visitor), n


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with tempfile.TemporaryDirectory(prefix="tracker-bench-") as folder:
        asyncio.run(main(folder))
