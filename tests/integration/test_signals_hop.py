"""The signals hop of one partition against a real Redis and Kafka, driven chunk by chunk."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream.fold import Folder
from stream.redis_store import Lost, Store
from stream.signals import SIGNALS
from stream.signals.base import Context, Result, Signal
from stream.signals_hop import DUE_LIMIT, SignalsHop
from stream.transport import Chunk
from tests.harness import Site, Stack
from tests.integration.hops import redis_and_kafka
from tracker.contract.codec import new_profile_id
from tracker.contract.events import ProfileEvent, encode_clock
from tracker.contract.loading import load
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import PROFILE_EVENTS

pytestmark = pytest.mark.integration
CARTS = "tracker.triggers.cart_abandoned.v1"
T0 = 1_795_000_000_000
PARTITION = 1000  # of no other: the worker of `stack` has the first few


class Driver:
    """Gives the hop's successors chunks of made-up records, as lanes would."""

    def __init__(self, store: Store, out: KafkaOut, settings: Settings, partition: int) -> None:
        self._partition, self._store, self._out = partition, store, out
        self._folder, self.settings = Folder(SIGNALS, settings), settings
        self.offset = 0

    def new(self, folder: Folder | None = None) -> SignalsHop:
        return SignalsHop(self._partition, self._store, self._out, folder or self._folder, self.settings)

    def chunk(self, *values: bytes) -> Chunk:
        records = [SimpleNamespace(offset=self.offset + i, value=v, key=None) for i, v in enumerate(values)]
        chunk = Chunk(TP(PROFILE_EVENTS, PARTITION), 1, self.offset, records)
        self.offset = chunk.next
        return chunk


@pytest.fixture
async def driver(stack: Stack) -> AsyncIterator[Driver]:
    settings = load({"TRACKER_DEMO": "1"}, kafka=stack.settings.kafka, redis=stack.settings.redis)
    async with redis_and_kafka(settings) as (store, out):
        yield Driver(store, out, settings, random.randrange(PARTITION, 1_000_000))


def profile_of(site: Site, visitor: int) -> str:
    return new_profile_id(site.name, "anonymous_id", f"v{visitor}")


def added(site: Site, visitor: int, n: int, ts: int = T0) -> bytes:
    event: dict[str, Any] = {
        "profileId": profile_of(site, visitor), "src": [0, n, 0], "site": site.name,
        "type": "track", "event": "Product Added", "messageId": f"m{n}", "timestampMs": ts, "receivedAtMs": ts,
        "channel": "site", "anonymousId": f"v{visitor}", "properties": {"product_id": "p", "price": 2},
    }  # fmt: skip
    return json.dumps(event).encode()


async def test_more_timers_than_one_step_takes_all_fire_once(stack: Stack, driver: Driver) -> None:
    site = stack.site()
    carts = 2 * DUE_LIMIT + 300
    hop = driver.new()
    assert await hop.claim(None) is None
    assert await hop.claim(0) == 0
    for start in range(0, carts, 500):
        await hop.process(driver.chunk(*(added(site, v, v) for v in range(start, min(start + 500, carts)))))
    idle_ms = int(hop._settings.cart_idle_s * 1000)
    late = added(site, carts + 1, carts + 1, T0 + idle_ms)
    await hop.process(driver.chunk(added(site, carts, carts), encode_clock(T0 + idle_ms), late, encode_clock(T0)))
    assert hop.clock_ms == T0 + idle_ms
    assert hop.gauges[f"carts_open|{site.name}"] == 1
    found = await stack.consume(CARTS, carts + 10, site=site, timeout_s=5)
    assert len(found) == carts + 1
    assert set(Counter(t["id"] for t in found).values()) == {1}

    after = driver.new()
    assert await after.claim(None) == driver.offset
    assert (after.clock_ms, after.gauges) == (hop.clock_ms, hop.gauges)


async def test_whoever_claims_later_shuts_the_earlier_one_out(stack: Stack, driver: Driver) -> None:
    site = stack.site()
    zombie = driver.new()
    await zombie.claim(None)
    await zombie.claim(0)
    first = driver.chunk(added(site, 1, 1))
    await zombie.process(first)
    owner = driver.new()
    assert await owner.claim(None) == first.next
    second = driver.chunk(added(site, 2, 2))
    with pytest.raises(Lost, match="epoch"):
        await zombie.process(second)
    await owner.process(second)
    assert owner.gauges[f"carts_open|{site.name}"] == 2


async def test_a_chunk_that_was_applied_unseen_has_no_second_effect(stack: Stack, driver: Driver) -> None:
    """As after a timeout: the apply came through, its answer did not; whoever claims finds the head behind it."""
    site = stack.site()
    hop = driver.new()
    await hop.claim(None)
    await hop.claim(0)
    chunk = driver.chunk(added(site, 1, 1), added(site, 1, 2))
    await hop.process(chunk)
    again = driver.new()
    assert await again.claim(None) == chunk.next
    repeated = driver.chunk(added(site, 1, 1), added(site, 1, 2))  # delivered once more at later offsets
    assert await again.process(repeated) == 0
    assert again.gauges[f"carts_open|{site.name}"] == 1


class Boundless(Signal[Any]):
    """A signal with a bug: what it gives for some events can't be written."""

    name = "boundless"
    state_type = type(None)
    events: frozenset[str] | None = None

    def fold(self, state: Any, event: ProfileEvent, ctx: Context) -> Result:
        return Result(state=None, gauges=(("carts_open", 2**70 if event.anonymous_id == "v3" else 1),))

    def merge(self, one: Any, other: Any, now_ms: int, ctx: Context) -> Any:
        raise NotImplementedError


async def test_of_a_chunk_that_cannot_be_written_only_the_record_to_blame_is_lost(stack: Stack, driver: Driver) -> None:
    site = stack.site()
    hop = driver.new(Folder((*SIGNALS, Boundless()), driver.settings))
    await hop.claim(None)
    await hop.claim(0)
    await hop.process(driver.chunk(*(added(site, v, v) for v in range(2))))
    await hop.process(driver.chunk(*(added(site, v, 10 + v) for v in range(7)), encode_clock(T0 + 1)))
    assert (hop.next, hop.clock_ms) == (10, T0 + 1)
    assert hop.gauges[f"profiles_known|{site.name}"] == 6
    after = driver.new()
    await after.claim(None)
    assert (after.clock_ms, after.gauges) == (hop.clock_ms, hop.gauges)
    await after.process(driver.chunk(added(site, 0, 20), added(site, 3, 21)))
    assert after._kept.profiles[site.name, profile_of(site, 0)].about.events == 3  # type: ignore[union-attr]
    ours = lambda x: x.get("partition") == hop.partition  # noqa: E731
    (letter,) = await stack.consume("tracker.dead-letters.v1", 1, match=ours, timeout_s=5)
    assert (letter["offset"], letter["reason"]) == (5, "fold_failed")
