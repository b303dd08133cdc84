"""What a run left behind: every key of Redis, one server or a cluster, and every record of a topic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

AT_ONCE = 500


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A client of the server at `url`, or of the cluster that it belongs to (redis+cluster://HOST:PORT,... too)."""
    url = url.replace("redis+cluster://", "redis://").split(",")[0]
    async with Redis.from_url(url) as redis:
        if not (await redis.info("cluster")).get("cluster_enabled"):
            yield redis
            return
    async with RedisCluster.from_url(url) as cluster:
        yield cluster


async def dump(url: str) -> dict[str, Any]:
    """Key -> value: hash as dict of str, string as bytes, sorted set as dict, list as list of bytes."""
    async with connected(url) as redis:
        keys = [key.decode() async for key in redis.scan_iter(count=5000)]
        found: dict[str, Any] = {}
        for i in range(0, len(keys), AT_ONCE):
            some = keys[i : i + AT_ONCE]
            types = await run_all(redis, [("TYPE", key) for key in some])
            reads = {
                b"hash": ("HGETALL",), b"string": ("GET",), b"list": ("LRANGE", 0, -1), b"set": ("SMEMBERS",),
                b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
            }  # fmt: skip
            commands = [(reads[t][0], key, *reads[t][1:]) for key, t in zip(some, types, strict=True)]
            for key, t, value in zip(some, types, await run_all(redis, commands), strict=True):
                found[key] = _plain(t, value)
    return found


def _plain(type: bytes, value: Any) -> Any:
    if type == b"hash":
        return {name.decode(): field.decode() for name, field in value.items()}
    if type == b"zset":
        pairs = (
            value if value and isinstance(value[0], list | tuple) else list(zip(value[::2], value[1::2], strict=True))
        )
        return {member.decode(): int(n) if (n := float(score)).is_integer() else n for member, score in pairs}
    return value


async def run_all(redis: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    result: list[Any] = await pipe.execute()
    return result


async def heads(url: str, partitions: int) -> dict[tuple[str, int], int]:
    """(e or p, partition) -> next; those that have none yet are left out."""
    names = [(tag, p) for tag in "ep" for p in range(partitions)]
    async with connected(url) as redis:
        nexts = await run_all(redis, [("HGET", f"{{{tag}{p}}}:head", "next") for tag, p in names])
    return {name: int(next) for name, next in zip(names, nexts, strict=True) if next is not None}


async def waiting_triggers(url: str, partitions: int) -> int:
    async with connected(url) as redis:
        return sum(await run_all(redis, [("LLEN", f"{{p{p}}}:out") for p in range(partitions)]))


async def ends(bootstrap: str, topic: str, partitions: int) -> dict[int, int]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        found = await consumer.end_offsets([TopicPartition(topic, p) for p in range(partitions)])
    return {tp.partition: end for tp, end in found.items()}


async def log_of(bootstrap: str, topic: str, partitions: int) -> dict[int, list[tuple[int, bytes | None]]]:
    """Partition -> (offset, value) of every record, in order."""
    tps = [TopicPartition(topic, p) for p in range(partitions)]
    found: dict[int, list[tuple[int, bytes | None]]] = {p: [] for p in range(partitions)}
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, max_poll_records=5000, fetch_max_wait_ms=50
    ) as consumer:
        ends = await consumer.end_offsets(tps)
        left = {tp for tp in tps if ends[tp] > 0}
        consumer.assign(sorted(left))
        if left:
            await consumer.seek_to_beginning(*left)
        while left:
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                found[tp.partition] += [(r.offset, r.value) for r in records if r.offset < ends[tp]]
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
    return found
