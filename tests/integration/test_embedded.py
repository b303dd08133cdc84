"""The embedded servers keep what was acked, also after kill -9; and a stack of one's own can be broken and mended."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis import Redis

from tests.harness import Servers, Stack, await_kafka, await_redis, eventually
from tracker.cli import topics
from tracker.contract.loading import load
from tracker.contract.topics import DEAD_LETTERS

pytestmark = pytest.mark.integration


async def test_kafka_and_redis_have_their_data_after_kill_9(own_servers: Callable[[], Servers]) -> None:
    servers = own_servers()
    await topics.create(load({"TRACKER_KAFKA": servers.kafka, "TRACKER_PARTITIONS": "2"}))
    async with AIOKafkaProducer(bootstrap_servers=servers.kafka, acks="all") as producer:
        for i in range(100):
            await producer.send_and_wait(DEAD_LETTERS, b"%d" % i)
    with Redis.from_url(servers.redis) as redis:
        redis.set("kept", "yes")
        # everysec: what is older than a second is on disk; a killed process loses nothing that the kernel has
        for child in servers.children.values():
            child.kill()
        for child in servers.children.values():
            child.start()
        await_redis(servers.children["redis"], servers.redis)
        await_kafka(servers.children["kafka"], servers.kafka)
        assert redis.get("kept") == b"yes"
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    async with AIOKafkaConsumer(bootstrap_servers=servers.kafka, enable_auto_commit=False) as consumer:
        partition = TopicPartition(DEAD_LETTERS, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        values: list[bytes] = []
        while len(values) < 100:
            batches = await consumer.getmany(timeout_ms=5000)
            assert batches, f"only {len(values)} of 100 records came back"
            values += [record.value for record in batches[partition]]
    assert values == [b"%d" % i for i in range(100)]


async def test_a_topic_that_nobody_created_is_not_made_by_asking_for_it(own_servers: Callable[[], Servers]) -> None:
    servers = own_servers()
    async with topics.admin(servers.kafka) as client:
        await client.describe_topics(["misspelt"])
        assert "misspelt" not in await client.list_topics()


async def test_a_killed_worker_goes_on_where_it_was(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(session_timeout_s=6)
    site = stack.site()
    path = f"/api/v1/sites/{site.name}/counters?by=event&window=24h"

    async def send(count: int) -> None:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        await stack.send(site, *({"type": "track", "event": "Seen", "anonymousId": i, "messageId": i} for i in ids))

    async def counted() -> int:
        status, answer = await stack.request("GET", path, bearer=site.secret_key)
        assert status == 200, answer
        return int(sum(group["count"] for group in answer["groups"]))

    await send(200)
    stack.worker.kill()
    await send(200)
    stack.worker.start()
    stack.await_ready()

    async def all_counted() -> bool:
        return await counted() >= 400

    await eventually(all_counted)
    assert await counted() == 400
