"""A worker at a fixed rate: how long until an event is visible in Redis, by an observer outside it.

Every 50 ms one of the events is of a visitor who never came before, and whose profile is looked for in Redis every
20 ms until it is there: identity, both hops and the apply are on that way. The producer is set as the endpoint's is, so
its linger is on it, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import datetime
from typing import Final, NamedTuple

import redis.asyncio as aioredis
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.endpoint import cpu_s
from bench.load import event, skewed
from stream.metrics import Producing
from stream.signals_hop import MARGIN_MS
from tracker.cli.topics import admin
from tracker.contract import keys
from tracker.contract.codec import new_profile_id, partition_of
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.contract.topics import EVENTS
from tracker.contract.triggers import CART_ABANDONED, decode_trigger

TICK_S: Final = 0.005
LOOK_EVERY_S: Final = 0.02
"""What is looked for more often costs the machine more than it tells: a second behind, 20 profiles are looked for."""
PROBE_EVERY_S: Final = 0.05
WARM_UP_S: Final = 20.0
"""As long as it takes the broker's JVM to compile what it runs all the time."""
LOST_S: Final = 120.0
CONNECT_S: Final = 15.0


class Rate(NamedTuple):
    events_s: float
    worker_us: float
    redis_us: float
    latencies_ms: list[float]
    delays_ms: list[float]
    """Of triggers of carts that were left: from when they were due, and the clock's margin, to published."""


async def at_rate(
    settings: Settings, worker_pid: int, redis_pid: int, visitors: int, rate: float, seconds: float
) -> Rate:
    """Send for `seconds` and a warm-up before. Raises SystemExit when an event does not become visible."""
    out = KafkaOut(
        settings.kafka, linger_ms=settings.linger_ms, linger_max_ms=settings.linger_max_ms,
        max_pending_bytes=settings.max_pending_bytes, produce_timeout_s=settings.produce_timeout_s, client_id="bench",
        observer=Producing(),
    )  # fmt: skip
    await out.start({EVENTS: settings.partitions})
    await asyncio.wait_for(out.connected.wait(), CONNECT_S)
    store = aioredis.Redis.from_url(settings.redis)
    probes: dict[str, float] = {}
    """Key of a profile that is not there yet -> when its event was received (time.time())."""
    found: list[tuple[float, float]] = []
    """(When received, ms until it was there) of each."""
    looking = asyncio.create_task(look(store, probes, found))
    draw = random.Random(11)
    began_s = time.perf_counter()
    sent = probed = 0
    counted_from_s = 0.0
    at_warm: tuple[int, float, float, float] | None = None
    try:
        while (past_s := time.perf_counter() - began_s) < WARM_UP_S + seconds:
            if at_warm is None and past_s >= WARM_UP_S:
                at_warm = sent, past_s, cpu_s(worker_pid), cpu_s(redis_pid)
                counted_from_s = time.time()
            while sent < rate * past_s:
                now_s = time.time()
                visitor = skewed(draw, visitors)
                if past_s >= probed * PROBE_EVERY_S:
                    visitor = f"probe-{probed}"
                    probed += 1
                    probes[profile_key(visitor, settings.partitions)] = now_s
                out.append(EVENTS, *event(draw, visitor, int(now_s * 1000)))
                sent += 1
            if looking.done():
                await looking
            await asyncio.sleep(TICK_S)
        warm_sent, warm_s, worker_s, redis_s = at_warm or (0, 0.0, 0.0, 0.0)
        n = sent - warm_sent
        worker_us, redis_us = (cpu_s(worker_pid) - worker_s) / n * 1e6, (cpu_s(redis_pid) - redis_s) / n * 1e6
        while probes:
            if looking.done():
                await looking
            await asyncio.sleep(TICK_S)
        latencies_ms = [ms for received_s, ms in found if received_s >= counted_from_s]
        delays_ms = await trigger_delays_ms(settings, counted_from_s)
        return Rate(n / (past_s - warm_s), worker_us, redis_us, latencies_ms, delays_ms)
    finally:
        looking.cancel()
        await out.stop(5.0)
        await store.aclose()


async def trigger_delays_ms(settings: Settings, from_s: float) -> list[float]:
    """Of the carts left from `from_s` on, as Kafka has their triggers now."""
    topic = CART_ABANDONED.topic
    delays_ms = []
    async with admin(settings.kafka) as client:
        (described,) = await client.describe_topics([topic])
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka, enable_auto_commit=False) as consumer:
        places = [TopicPartition(topic, p["partition"]) for p in described["partitions"]]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        for place, end in ends.items():
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=500)).values():
                    for record in records:
                        due_s = datetime.fromisoformat(decode_trigger(record.value).time).timestamp()
                        if due_s >= from_s:
                            delays_ms.append(record.timestamp - due_s * 1000 - MARGIN_MS)
    return delays_ms


def profile_key(visitor: str, partitions: int) -> str:
    profile = new_profile_id(DEMO_SITE, "anonymous_id", visitor)
    return keys.profile_key(partition_of(profile.encode(), partitions), DEMO_SITE, profile)


async def look(store: aioredis.Redis, probes: dict[str, float], found: list[tuple[float, float]]) -> None:
    while True:
        if probes:
            asked = list(probes)
            pipe = store.pipeline(transaction=False)
            for key in asked:
                pipe.exists(key)
            answers = await pipe.execute()
            now_s = time.time()
            for key, there in zip(asked, answers, strict=True):
                if there:
                    received_s = probes.pop(key)
                    found.append((received_s, (now_s - received_s) * 1000))
                elif now_s - probes[key] > LOST_S:
                    raise SystemExit(f"bench: {key} is not in Redis after {LOST_S:.0f} s")
        await asyncio.sleep(LOOK_EVERY_S)
