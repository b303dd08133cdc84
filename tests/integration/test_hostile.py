"""The records of tests/hostile.py, and counters at their most, in the real Redis: no script fails, all can be read."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis.asyncio as aioredis
from aiokafka import AIOKafkaProducer
from faust.types import TP
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Struct

from stream.fold import Folder
from stream.fold_timers import TRY_AGAIN_MS
from stream.metrics import Producing
from stream.profile import Profile
from stream.records import decode
from stream.redis_store import Head, Store
from stream.signals import SIGNALS
from stream.signals.base import Context, Result, Signal, Trigger
from stream.signals_hop import SignalsHop
from stream.transport import Chunk
from tests.harness import Stack, eventually
from tests.hostile import SETTINGS, T0, chunks, extreme_carts, extreme_event
from tracker.contract import keys
from tracker.contract.codec import new_profile_id, partition_of
from tracker.contract.events import ProfileEvent, encode_clock
from tracker.contract.producer import KafkaOut
from tracker.contract.topics import EVENTS, PROFILE_EVENTS
from tracker.contract.triggers import CART_ABANDONED
from tracker.contract.windows import Zone

pytestmark = pytest.mark.integration
PROFILE = new_profile_id("demo", "anonymous_id", "a2")
PARTITIONS = itertools.count(2_000_000)  # of no other test


class Writer:
    """Folds chunks into a partition of the real Redis, as the signals hop does, without Kafka."""

    def __init__(self, store: Store, partition: int) -> None:
        self.store = store
        self.head = Head(store, keys.profiles_tag(partition) + ":head")
        self.folder = Folder(SIGNALS, SETTINGS)
        self.profiles: dict[tuple[str, str], Profile] = {}
        self.next = self.clock_ms = 0

    async def claim(self) -> None:
        assert await self.head.claim(0) == 0

    async def take(self, values: list[bytes | None], **extra: int) -> None:
        decoded = decode(values, 3, range(self.next, self.next + len(values)))
        for key in decoded.profiles:
            self.profiles.setdefault(key, Profile(*key))
        due = [key for key, p in self.profiles.items() if p.due_ms is not None]
        fx = self.folder.fold(decoded, self.profiles, due, {}, self.clock_ms)
        if extra:
            fx.extra["demo", T0 // 60_000 * 60] = extra
        next = self.next + len(values)
        blob = self.folder.blob(fx, epoch=self.head.epoch, seq=self.head.seq, base=self.next, next=next)
        await self.head.write("apply", blob)
        self.next, self.clock_ms = next, fx.clock_ms


@pytest.fixture
async def writer(redis_url: str) -> AsyncIterator[Writer]:
    store = Store(redis_url)
    await store.start()
    writer = Writer(store, next(PARTITIONS))
    await writer.claim()
    try:
        yield writer
    finally:
        await store.stop()


def test_no_record_of_a_topic_makes_a_script_fail(redis_url: str) -> None:
    @hypothesis_settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
    @given(chunks)
    def written(values: list[bytes]) -> None:
        async def write() -> None:
            store = Store(redis_url)
            await store.start()
            try:
                writer = Writer(store, next(PARTITIONS))
                await writer.claim()
                await writer.take([*values, encode_clock(T0 + 10**9)])
                await writer.take([*values, encode_clock(T0 + 10**11)])
            finally:
                await store.stop()

        asyncio.run(write())

    written()


class Waits(Struct):
    """State of `Failing`: how often it fired, and what is wrong with it."""

    due_ms: int | None
    fired: int = 0
    odd: Any = None


class Failing(Signal[Waits]):
    """A signal with a bug: the timers of some profiles fail, each in its way."""

    name = "failing"
    state_type = Waits
    events: frozenset[str] | None = None

    def __init__(self, how: dict[str, str]) -> None:
        self.how = how

    def fold(self, state: Waits | None, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=state or Waits(event.timestamp_ms + 1000))

    def due_ms(self, state: Waits) -> int | None:
        if state.odd == "due":
            raise RuntimeError
        return state.due_ms

    def fire(self, state: Waits, now_ms: int, ctx: Context) -> Result:
        after, how = Waits(None, state.fired + 1), self.how.get(ctx.profile_id)
        if how == "raise":
            raise RuntimeError
        if how in ("state", "due"):  # no JSON
            return Result(state=Waits(None, 1, object() if how == "state" else how))
        if how == "count":  # no time
            return Result(state=after, counts_at=(("carts", 1, 2**60),))
        if how == "trigger":  # no JSON
            data = Waits(None, 0, object())
            return Result(state=after, triggers=(Trigger(kind=CART_ABANDONED, id="t", at_ms=T0, data=data),))
        return Result(state=after, gauges=(("carts_open", 2**70 if how == "gauge" else 1),))  # no number of 64 bits

    def merge(self, one: Waits, other: Waits, now_ms: int, ctx: Context) -> Result:
        raise NotImplementedError


FAILURES = ("raise", "state", "due", "count", "trigger", "gauge")


def test_of_a_clock_record_only_the_timers_that_fail_are_put_aside(redis_url: str) -> None:
    """However they fail, and whatever stands beside the record: nothing ends, and a mended signal fires them later."""
    ids = [new_profile_id("demo", "anonymous_id", f"t{n}") for n in range(9)]

    def wait(n: int, at: int, ms: int) -> bytes:
        return msgspec.json.encode({**extreme_event(at, "page", {}, ms), "profileId": ids[n], "messageId": f"m{at}"})

    async def fire(how: dict[str, str], beside: int, late: bool) -> None:
        store = Store(redis_url)
        await store.start()
        try:
            partition = next(PARTITIONS)
            out = KafkaOut(
                "", linger_ms=1, max_pending_bytes=1, produce_timeout_s=1, client_id="t", observer=Producing()
            )

            async def owner(how: dict[str, str]) -> SignalsHop:
                hop = SignalsHop(partition, store, out, Folder([Failing(how)], SETTINGS), SETTINGS)
                await hop.claim(0)
                return hop

            async def fired() -> list[int]:
                found = [await store.run("HGET", keys.profile_key(partition, "demo", id), "failing") for id in ids]
                return [msgspec.json.decode(text, type=Waits).fired for text in found]

            def chunk(base: int, *values: bytes) -> Chunk:
                records = [SimpleNamespace(offset=base + i, value=v, key=None) for i, v in enumerate(values)]
                return Chunk(TP(PROFILE_EVENTS, partition), 1, base, records)

            hop = await owner(how)
            await hop.process(chunk(0, *(wait(n, n, T0) for n in range(9))))
            hop = await owner(how) if late else hop  # with nothing in its memory, or all
            ms = T0 + 2000
            more = [wait(n, 9 + n, ms) for n in range(beside)]  # before these, too, timers are due
            await hop.process(chunk(9, *more[::2], encode_clock(ms), *more[1::2]))
            assert (hop.next, hop.clock_ms) == (10 + beside, ms)
            assert await fired() == [0 if id in how else 1 for id in ids]
            assert (await owner({})).gauges.get("carts_open|demo", 0) == 9 - len(how)
            left = await store.run("ZRANGE", f"{{p{partition}}}:due", 0, -1, "WITHSCORES")
            assert {member.decode(): int(at) for member, at in left} == {f"demo|{id}": ms + TRY_AGAIN_MS for id in how}
            mended = await owner({})
            await mended.process(chunk(10 + beside, encode_clock(ms + TRY_AGAIN_MS)))
            assert await fired() == [1] * 9
        finally:
            await store.stop()

    @hypothesis_settings(max_examples=15, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(
        st.dictionaries(st.sampled_from(ids), st.sampled_from(FAILURES), max_size=9), st.integers(0, 9), st.booleans()
    )
    @example(dict.fromkeys(ids, "gauge"), 0, True)
    def tried(how: dict[str, str], beside: int, late: bool) -> None:
        asyncio.run(fire(how, beside, late))

    tried()


async def test_counts_stand_still_at_their_most_and_can_be_read(writer: Writer, redis_url: str) -> None:
    """Of twenty times the dearest order there is: more than Redis's Lua can count exactly."""
    for chunk in extreme_carts():
        await writer.take(chunk)
    for n in range(20):
        await writer.take([msgspec.json.encode(extreme_event(10 + n, "page", {}))], **{
            "cart_revenue|KWD|organic": 10**15, **{f"cart_reason|r{n}.{i}": 1 for i in range(200)},
        })  # fmt: skip
    await writer.take([msgspec.json.encode(extreme_event(99, "page", {}))], **{"cart_revenue|USD|": 10**18})
    await writer.take([msgspec.json.encode(extreme_event(100, "page", {}))], **{"cart_revenue|new|": 10**18})
    partition = int(writer.head.key[2:-6])
    redis = aioredis.Redis.from_url(redis_url)
    try:
        day = Zone(SETTINGS.sites["demo"].time_zone).day(T0 // 1000)
        for tier, bucket in (("d", day), ("m", T0 // 60_000 * 60)):
            found: Any = await redis.hgetall(keys.counter_key(partition, "demo", "site", tier, bucket))
            counts = {name: int(n) for name, n in found.items()}
            assert counts[b"cart_revenue|KWD|organic"] == counts[b"sum"] == keys.MAX_COUNT
            assert counts[b"event|page"] == 22
            assert counts[b"cart_revenue|"] == keys.MAX_COUNT  # the bucket was full
            assert counts[b"cart_reason|"] == 20 * 200 - sum(name.startswith(b"cart_reason|r") for name in counts)
    finally:
        await redis.aclose()


async def test_an_import_of_years_leaves_no_buckets_that_no_window_reads(writer: Writer, redis_url: str) -> None:
    """Wherever the chunks are cut."""
    ages_h = (0, 47, 49, 91 * 24, 93 * 24, 731 * 24, 733 * 24)
    for n, age_h in enumerate(ages_h):
        event = extreme_event(n, "page", {}) | {"timestampMs": T0 - age_h * 3_600_000, "source": "import"}
        await writer.take([msgspec.json.encode(event), encode_clock(T0 + n)])
    event = extreme_event(20, "page", {}, T0 - 93 * 24 * 3_600_000)  # of a backlog that is read now
    await writer.take([msgspec.json.encode(event)])
    redis = aioredis.Redis.from_url(redis_url)
    try:
        tag = writer.head.key.removesuffix(":head")
        found = [key.decode().split(":") async for key in redis.scan_iter(f"{tag}:c:demo:site:*", 1000)]
    finally:
        await redis.aclose()
    tiers = {tier: {int(bucket) for *_, of, bucket in found if of == tier} for tier in "mhd"}
    assert {tier: len(buckets) for tier, buckets in tiers.items()} == {"m": 3, "h": 5, "d": 5}


async def test_an_event_of_the_far_future_makes_no_visitor_older(writer: Writer, redis_url: str) -> None:
    await writer.take([msgspec.json.encode(extreme_event(1, "page", {})), encode_clock(T0)])
    late = extreme_event(2, "page", {}, T0 + 200 * 86_400_000) | {"profileId": PROFILE, "anonymousId": "a2"}
    await writer.take([msgspec.json.encode(late)])
    redis = aioredis.Redis.from_url(redis_url)
    try:
        visitors = keys.visitors_key(int(writer.head.key[2:-6]), "demo", "all")
        assert await redis.zcard(visitors) == 2
        await writer.take([encode_clock(T0 + 199 * 86_400_000), msgspec.json.encode({**late, "src": [3, 9, 0]})])
        later = {**late, "src": [3, 10, 0], "timestampMs": T0 + 201 * 86_400_000}
        await writer.take([msgspec.json.encode(later)])
        assert await redis.zcard(visitors) == 1
    finally:
        await redis.aclose()


async def test_records_as_large_as_kafka_takes_stop_no_partition(stack: Stack) -> None:
    site = stack.site()
    profile = new_profile_id(site.name, "anonymous_id", "v1").encode()
    pad = {"pad": "x" * 1_040_000}
    event = {
        **extreme_event(1, "page", pad),
        "site": site.name,
        "anonymousId": "v1",
        "timestampMs": 1,
        "src": [3000, 1, 0],
    }
    places = (
        (EVENTS, partition_of(b"v1", stack.settings.partitions)),
        (PROFILE_EVENTS, partition_of(profile, stack.settings.partitions)),
    )
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        for topic, partition in places:
            for value in (os.urandom(1_040_000), msgspec.json.encode(event)):
                await producer.send_and_wait(topic, value, b"k" * 2000, partition)
    await stack.send(site, {"type": "page", "anonymousId": "v1", "messageId": "after"})
    ours = lambda x: x.get("missingBytes", 0) > 500_000 and x.get("key", "").startswith("a2tra2tr")  # noqa: E731
    letters = await stack.consume("tracker.dead-letters.v1", 3, match=ours, timeout_s=30)
    assert sorted((x["topic"], x["reason"]) for x in letters) == [
        (EVENTS, "not_an_event"), (EVENTS, "not_an_event"), (PROFILE_EVENTS, "not_an_event"),
    ]  # fmt: skip
    (passed,) = await stack.consume(PROFILE_EVENTS, 1, site=site, match=lambda x: x["messageId"] == "after")
    assert passed["profileId"] == profile.decode()
    redis = aioredis.Redis.from_url(stack.settings.redis)
    try:
        await eventually(lambda: redis.exists(keys.profile_key(places[1][1], site.name, profile.decode())), 20)
    finally:
        await redis.aclose()
