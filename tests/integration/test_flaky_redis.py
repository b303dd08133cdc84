"""Calls that fail now and then, before or after they had their effect, and acks that do not come: both hops end in the
state that they have without. The same log, hops over a real Redis, each failure mended as lanes do it: claim again."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream.fold import Folder
from stream.redis_store import Lost, RedisError, Store, Unavailable
from stream.resolve import Resolve
from stream.signals import SIGNALS
from stream.signals_hop import SignalsHop
from stream.transport import Chunk
from tests.integration.test_stream_hops import T0, Log, store
from tests.oracle.state import dump
from tracker.contract.events import encode_clock
from tracker.contract.loading import load
from tracker.contract.producer import ProduceError
from tracker.contract.topics import EVENTS, PROFILE_EVENTS

pytestmark = pytest.mark.integration
__all__ = ["store"]
SETTINGS = load({"TRACKER_DEMO": "1", "TRACKER_PARTITIONS": "2"})
FAILURES = (Lost, ProduceError, RedisError, *Unavailable)


class Flaky:
    """A store whose calls fail with a chance: not done, or done without a word."""

    def __init__(self, store: Store, draw: random.Random, chance: float) -> None:
        self._store, self._draw, self._chance = store, draw, chance
        self.failed = 0
        self.place = store.place

    def run(self, command: str, key: str, *arguments: Any) -> asyncio.Future[Any]:
        if ":seen:" in key:  # a claim has hundreds of these: one would always fail
            return self._store.run(command, key, *arguments)
        return asyncio.ensure_future(self._do(lambda: self._store.run(command, key, *arguments)))

    def call(self, script: str, key: str, argument: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._do(lambda: self._store.call(script, key, argument)))

    async def _do(self, ask: Any) -> Any:
        lot = self._draw.random() / self._chance
        if lot < 0.5:
            self.failed += 1
            raise self._draw.choice([RedisTimeoutError("not done"), ResponseError("MISCONF no disk"), OSError("reset")])
        answer = await ask()
        if lot < 1:
            self.failed += 1
            raise RedisTimeoutError("done")
        return answer


class FlakyLog(Log):
    """Kafka, whose acks do not come with a chance: the batch is there or not. What comes behind it in its partition is
    not, as with KafkaOut(ordered=True), until whoever sent it has taken notice."""

    def __init__(self, draw: random.Random, chance: float) -> None:
        super().__init__()
        self._draw, self._chance = draw, chance
        self.broken: set[tuple[str, int]] = set()
        self.failed = 0

    def append(self, topic: str, key: bytes, value: bytes, _: Any, partition: int, *__: Any) -> asyncio.Future[None]:
        return self.extend(topic, partition, [(key, value)]).pop()

    def extend(self, topic: str, partition: int, records: list[tuple[bytes, bytes]]) -> set[asyncio.Future[None]]:
        where = (topic, partition)
        lot = 0.0 if where in self.broken else self._draw.random() / self._chance
        if lot >= 0.5:
            self.records += [(topic, partition, value) for _, value in records]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if lot < 1:
            self.failed += where not in self.broken
            self.broken.add(where)
            done.set_exception(ProduceError("no ack"))
            done.exception()  # nobody need wait for it
        else:
            done.set_result(None)
        return {done}


def events(draw: random.Random, count: int) -> Iterator[bytes]:
    """People with several devices and users, who put things into carts and order some of them."""
    for n in range(count):
        person, device = draw.randrange(12), draw.randrange(3)
        who = {"anonymousId": f"a{person}.{device}"} | ({"userId": f"u{person}"} if draw.random() < 0.25 else {})
        kind = draw.choice(["page", "Product Viewed", "Product Added", "Product Added", "Order Completed", "identify"])
        event: dict[str, Any] = {
            "site": "demo", "messageId": f"m{n - (draw.random() < 0.05)}", "timestampMs": T0 + n * 60_000,
            "receivedAtMs": T0 + n * 60_000, "channel": "site", **who,
            "properties": {"product_id": f"p{n % 7}", "price": 2},
        }  # fmt: skip
        if kind in ("page", "identify"):
            yield json.dumps(event | {"type": kind, "traits": {"n": n}}).encode()
        else:
            event["properties"] |= {"order_id": f"o{n}", "revenue": 5} if kind == "Order Completed" else {}
            yield json.dumps(event | {"type": "track", "event": kind}).encode()


class World:
    """Both hops over one store and one log, as one process after the other owns them."""

    def __init__(self, store: Store, seed: int, chance: float) -> None:
        self.draw = random.Random(seed)
        self.store = Flaky(store, self.draw, chance)
        self.log = FlakyLog(self.draw, chance)
        self.folder = Folder(SIGNALS, SETTINGS)
        self.events: list[bytes] = []

    def resolve(self) -> Resolve:
        return Resolve(0, cast(Any, self.store), cast(Any, self.log), SETTINGS)

    def signals(self, p: int) -> SignalsHop:
        return SignalsHop(p, cast(Any, self.store), cast(Any, self.log), self.folder, SETTINGS)

    def values(self, p: int) -> list[bytes]:
        return [value for topic, of, value in self.log.records if topic == PROFILE_EVENTS and of == p]

    async def owner(self, make: Any) -> Any:
        while True:
            hop = make()
            self.log.broken.clear()
            try:
                await hop.claim(0)
                return hop
            except FAILURES:
                continue

    async def work(self, topic: str, make: Any, log: Any) -> bool:
        """To the end of a log; whether there was anything to do."""
        hop = await self.owner(make)
        worked = False
        while (values := log())[hop.next :] or getattr(hop, "_outbox", None):
            worked = True
            places = range(hop.next, min(hop.next + self.draw.randint(1, 6), len(values)))
            records = [SimpleNamespace(offset=n, key=None, value=values[n]) for n in places]
            try:
                if records:
                    await hop.process(Chunk(cast(Any, SimpleNamespace(topic=topic, partition=0)), 1, hop.next, records))
                else:
                    await hop._publish()
            except FAILURES:
                hop = await self.owner(make)
        return worked

    async def take(self, values: list[bytes], clock_ms: int) -> None:
        """Some events, all that follows from them, and the clock after them."""
        self.events += values
        await self.work(EVENTS, self.resolve, lambda: self.events)
        self.log.records += [(PROFILE_EVENTS, p, encode_clock(clock_ms)) for p in range(2)]
        while any(
            [await self.work(PROFILE_EVENTS, lambda p=p: self.signals(p), lambda p=p: self.values(p)) for p in (0, 1)]
        ):
            pass

    def triggers(self) -> dict[str, Any]:
        found = [json.loads(value) for topic, _, value in self.log.records if topic.startswith("tracker.triggers.")]
        return {trigger["id"]: trigger for trigger in found}


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """Of both partitions together: an event before a merge that is decided again after it is the winner's at once, and
    so counted in another partition. Without what says who wrote it, and from where in the log."""
    kept: dict[str, Any] = {}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, value in found.items():
        kind, _, rest = key.rpartition("}:")[2].partition(":")
        if kind in ("c", "g"):
            counts[f"{kind}:{rest}"].update({field: int(n) for field, n in value.items()})
        elif kind == "v":
            kept[rest] = {field: json.loads(text) for field, text in value.items()}
        elif kind in ("id", "k", "to", "decided", "out", "merges"):
            kept[f"{kind}:{rest}"] = value
    return kept | {key: +count for key, count in counts.items()}


@pytest.mark.parametrize("seed", [1, 2])
async def test_calls_and_acks_that_fail_now_and_then_change_nothing(store: Store, seed: int) -> None:
    outcomes = []
    for chance in (1e-9, 0.08):
        await store.run("FLUSHALL", "SYNC")
        world = World(store, seed, chance)
        values = list(events(random.Random(seed), 240))
        for first in range(0, len(values), 40):
            await world.take(values[first : first + 40], T0 + (first + 40) * 60_000)
        await world.take([], T0 + 10**9)
        host, port = store._nodes._start[0]
        outcomes.append((plain(await dump(f"redis://{host}:{port}/0")), world.triggers(), world.log.merges()))
    assert world.store.failed > 40
    assert world.log.failed > 5
    (keys, triggers, merges), (flaky_keys, flaky_triggers, flaky_merges) = outcomes
    assert len(merges) > 5
    assert len(triggers) > 10
    assert flaky_merges == merges
    assert flaky_keys.keys() == keys.keys()
    assert {key: value for key, value in flaky_keys.items() if value != keys[key]} == {}
    assert flaky_triggers == triggers
