"""Hop 1 after Redis has lost its last second: what the log has is published again as it was, by any worker, in any
order.

A real Redis, killed and its append-only file cut to what it was at a moment; the log is a list."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from stream import recovery as recovery_module
from stream.recovery import Recovery, split
from stream.redis_store import Lost, Store
from stream.resolve import Fenced, Resolve, Restarted, _heads
from tests.harness import await_redis, embedded_redis
from tests.integration.test_stream_hops import SETTINGS, T0, Log, chunk, event
from tracker.contract import keys
from tracker.contract.codec import new_profile_id, partition_of
from tracker.contract.events import LEFT, EventHead
from tracker.contract.merges import Unmerge, encode_unmerge, split_profile_id
from tracker.contract.topics import EVENTS, MERGES
from tracker.embedded.process import Child

pytestmark = pytest.mark.integration
SITE = "demo"


class World:
    """A Redis that can be rewound, and workers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, Log()
        self.url = ""
        self.child: Child

    async def start(self) -> None:
        self.url, self.child = await asyncio.to_thread(embedded_redis, self.folder)
        self.store = Store(self.url)
        await self.store.start()
        await self._write_at_once()

    async def worker(self, *partitions: int) -> list[Resolve]:
        recovery = Recovery(self.store, SETTINGS, self.log.tail)
        out: Any = self.log
        hops = [Resolve(p, self.store, out, SETTINGS, None, None, recovery) for p in partitions]
        for hop in hops:
            await hop.claim(0)
        return hops

    def size(self) -> int:
        return self.aof.stat().st_size

    @property
    def aof(self) -> Path:
        return max(self.folder.rglob("*.aof"), key=lambda file: file.stat().st_mtime)

    async def rewind(self, size: int) -> None:
        """Redis is killed, and has of its file so much when it starts again."""
        assert size < self.size()
        await asyncio.to_thread(self.child.kill)
        os.truncate(self.aof, size)
        self.child.start()
        await asyncio.to_thread(await_redis, self.child, self.url)
        while True:
            try:
                await self.store.start()
                return await self._write_at_once()
            except ConnectionError:  # of a connection to the server that was killed
                pass

    async def _write_at_once(self) -> None:
        """Else it waits with its writes while the disk is slow, and `size` lags."""
        await self.store.run("CONFIG", "SET", "appendfsync", "always")

    async def owner(self, type: str, value: str) -> str | None:
        found = await self.store.run("GET", keys.identifier_key(SITE, type, value))
        return found.decode() if found is not None else None


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(recovery_module, "SETTLE_S", 0.01)
    world = World(tmp_path)
    await world.start()
    try:
        yield world
    finally:
        await world.store.stop()
        world.child.stop()


A = new_profile_id(SITE, "anonymous_id", "a")
B = new_profile_id(SITE, "anonymous_id", "b")


async def test_a_user_is_the_same_profile_again_after_redis_has_lost_the_decisions(world: World) -> None:
    one, other = await world.worker(0, 1)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))  # somebody looks around on two devices
    await other.process(chunk(EVENTS, 0, event(1, anonymousId="b")))
    size = world.size()
    await one.process(chunk(EVENTS, 1, event(2, anonymousId="a", userId="u")))
    await other.process(chunk(EVENTS, 1, event(3, anonymousId="b", userId="u")))
    published, merges, n = world.log.events(), world.log.merges(), len(world.log.records)
    assert merges == {(B, A)}
    await world.rewind(size)
    # The partitions are taken over in another order, each by a worker that has only one, and more comes behind.
    (other,) = await world.worker(1)
    await other.process(chunk(EVENTS, 1, event(3, anonymousId="b", userId="u"), event(4, userId="u")))
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 1, event(2, anonymousId="a", userId="u"), event(5, anonymousId="b")))
    again = world.log.events(n)
    assert set(again) == {*published[2:], (A, (1, 2)), (A, (0, 2))}
    assert world.log.merges() == merges
    assert {await world.owner(type, value) for type, value in
            (("user_id", "u"), ("anonymous_id", "a"), ("anonymous_id", "b"))} == {A}  # fmt: skip


async def test_an_event_stays_whose_it_was_published_as_though_its_profile_was_merged_since(world: World) -> None:
    """Decided anew it would be the winner's, and count for the loser, too."""
    one, other = await world.worker(0, 1)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    size = world.size()
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b")))
    await other.process(chunk(EVENTS, 0, event(2, anonymousId="a", userId="u"), event(3, anonymousId="b", userId="u")))
    assert world.log.merges() == {(B, A)}
    n = len(world.log.records)
    await world.rewind(size)
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b"), event(4, anonymousId="b")))
    assert world.log.events(n) == [(B, (0, 1)), (A, (0, 2))]


async def test_what_is_lost_is_looked_for_once_in_a_life_of_the_server(world: World) -> None:
    reads = world.log.reads
    (one,) = await world.worker(0)
    assert world.log.reads == reads + 1  # a new Redis may be one that has lost all
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    assert world.log.reads == reads + 1
    size = world.size()
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b")))
    await world.worker(0)
    one, _ = await world.worker(0, 1)
    of_another_site = event(2, anonymousId="a").replace(b'"demo"', b'"new"')
    await one.process(chunk(EVENTS, 2, of_another_site))
    assert world.log.reads == reads + 2  # for partition 1, which is new
    await world.rewind(size)
    one, _ = await world.worker(0, 1)
    assert one._recovery.read > 0
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b"), of_another_site))
    assert world.log.reads == reads + 3
    await world.worker(0, 1)
    assert world.log.reads == reads + 3


async def test_a_redis_whose_clock_is_ahead_makes_no_recovery_begin_too_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is by workers' clocks. Nor when another took over, whose clock is right."""

    monkeypatch.setattr("stream.redis_store.time", lambda: time.time() - 60)
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    size, since_ms = world.size(), (time.time() - 60) * 1000
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b")))
    monkeypatch.setattr("stream.redis_store.time", time.time)
    await world.rewind(size)
    (one,) = await world.worker(0)
    assert since_ms - 15_000 < world.log.since_ms < since_ms

    # That is over with the loss of that run.
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="b")))
    size, since_ms = world.size(), time.time() * 1000
    await one.process(chunk(EVENTS, 2, event(2, anonymousId="b")))
    await world.rewind(size)
    await world.worker(0)
    assert since_ms - 15_000 < world.log.since_ms < since_ms


async def test_a_worker_that_did_not_notice_the_restart_decides_nothing(world: World) -> None:
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    await one.process(chunk(EVENTS, 1, event(1, anonymousId="a", userId="u")))
    before = one.next
    async with Redis.from_url(world.url) as redis:  # something else comes last, so that the head does not go back
        await redis.set("x", "y")
    await world.rewind(world.size() - 1)
    n = len(world.log.records)
    (head,) = _heads([event(9, anonymousId="new")])
    assert isinstance(head, EventHead)
    with pytest.raises(Restarted):
        await one._ids.ask(SITE, [(head, (("anonymous_id", "new"),), ())])
    assert await world.owner("anonymous_id", "new") is None
    for value in (event(2, anonymousId="a", userId="u"), event(3, anonymousId="new")):
        with pytest.raises(Lost, match="run"):  # of what its cache knows, and of what it asks for
            await one.process(chunk(EVENTS, before, value))
    assert len(world.log.records) == n


async def test_a_later_owner_is_known_at_once_when_it_asked_while_the_site_was_made_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = await world.worker(0)
    async with Redis.from_url(world.url) as redis:
        await redis.set("x", "y")
    await world.rewind(world.size() - 1)
    make_whole = old._recovery.make_whole
    later: list[Resolve] = []

    async def meanwhile(site: str, run: str) -> None:
        later.extend(await world.worker(0))
        await later[0].process(chunk(EVENTS, 0, event(0, anonymousId="a")))
        await make_whole(site, run)

    monkeypatch.setattr(old._recovery, "make_whole", meanwhile)
    with pytest.raises(Fenced):
        await old.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    assert old._recovery.epochs == {0: later[0]._head.epoch}


async def test_an_event_that_was_not_published_comes_behind_later_ones_and_is_folded(world: World) -> None:
    """Its profile was merged meanwhile: so it goes where a later event of its partition is."""
    one, other = await world.worker(0, 1)
    b = next(name for name in (f"b{n}" for n in range(99)) if spot(name) != spot("a"))
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    size = world.size()
    await one.process(chunk(EVENTS, 1, event(1, anonymousId=b), event(2, anonymousId="a"), event(3, anonymousId=b)))
    await other.process(chunk(EVENTS, 0, event(4, anonymousId=b, userId="u"), event(5, anonymousId="a", userId="u")))
    assert world.log.merges() == {(new_profile_id(SITE, "anonymous_id", b), A)}
    # The batch for the other profile's partition never left.
    world.log.records = [r for r in world.log.records if b'"src":[0,1,' not in r[2] and b'"src":[0,3,' not in r[2]]
    n = len(world.log.records)
    await world.rewind(size)
    (one,) = await world.worker(0)
    for _ in range(2):  # it dies before its head moves
        await one.process(chunk(EVENTS, 1, event(1, anonymousId=b), event(2, anonymousId="a"), event(3, anonymousId=b)))
        again = world.log.events(n)
        # Of partition 0, offset 2 was there: 1 would be taken for a repeat behind it, 3 would not.
        assert set(again) == {(A, (LEFT, 1)), (A, (0, 2)), (A, (0, 3))}
        await world.store.run("HMSET", "{e0}:head", "next", 1, "settled", "")
        (one,) = await world.worker(0)


def spot(name: str) -> int:
    return partition_of(new_profile_id(SITE, "anonymous_id", name).encode(), SETTINGS.partitions)


@pytest.mark.parametrize("dies", [False, True], ids=["the worker goes on", "the worker dies, another goes on"])
async def test_a_merge_that_redis_lost_before_it_was_published_is_published_with_what_made_it(
    world: World, dies: bool
) -> None:
    """As of a cluster, where only the node with the identifiers goes back."""
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a"), event(1, anonymousId="b")))
    await one.process(chunk(EVENTS, 2, event(2, anonymousId="b", userId="u")))
    before = {key: await world.store.run("DUMP", key) for key in await world.store.run("KEYS", "{s:*")}
    publish = one._publish_merges

    async def lose(sites: set[str], made: Any) -> None:
        for key in await world.store.run("KEYS", "{s:*"):
            await world.store.run("DEL", key)
        for key, value in before.items():
            await world.store.run("RESTORE", key, 0, value)
        if dies:
            raise Lost
        await publish(sites, made)

    one._publish_merges = lose  # type: ignore[method-assign]
    last = chunk(EVENTS, 3, event(3, anonymousId="a", userId="u"))
    try:
        await one.process(last)
    except Lost:
        (one,) = await world.worker(0)
        await one.process(last)
    assert world.log.merges() == {(B, A)}
    assert world.log.events()[-1] == (A, (0, 3))
    assert await world.owner("anonymous_id", "b") == A


async def test_what_was_taken_off_a_profile_stays_off_it_after_redis_has_lost_that(world: World) -> None:
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a"), event(1, anonymousId="a", userId="u")))
    size = world.size()
    new = split_profile_id(SITE, "1")
    unmerge = Unmerge(unmerge_id="1", site=SITE, profile_id=A, new_profile_id=new, ids=[("user_id", "u")], at_ms=T0 + 9)
    world.log.append(MERGES, b"", encode_unmerge(unmerge), None, 0)
    for _ in range(2):
        await split(world.store, unmerge, SETTINGS)
    (one,) = await world.worker(0)
    await one.process(chunk(EVENTS, 2, event(2, userId="u")))
    assert world.log.events()[-1] == (new, (0, 2))
    await world.rewind(size)
    (one,) = await world.worker(0)
    assert [await world.owner(type, value) for type, value in (("user_id", "u"), ("anonymous_id", "a"))] == [new, A]
    await one.process(chunk(EVENTS, 2, event(2, userId="u"), event(3, anonymousId="a", userId="u")))
    assert await world.owner("user_id", "u") == A  # they have met again, and are one again
    await split(world.store, unmerge, SETTINGS)
    assert await world.owner("user_id", "u") == A


@pytest.mark.parametrize("hop_2_was_first", [False, True])
async def test_what_was_taken_off_stays_off_though_redis_has_lost_how_it_came_there(
    world: World, hop_2_was_first: bool
) -> None:
    """The link, or the merge, and the unmerge: all of it is in the log, in this order."""
    one, other = await world.worker(0, 1)
    await one.process(chunk(EVENTS, 0, event(0, anonymousId="a")))
    await other.process(chunk(EVENTS, 0, event(1, anonymousId="b")))
    size = world.size()
    await one.process(chunk(EVENTS, 1, event(2, anonymousId="a", userId="u")))
    await other.process(chunk(EVENTS, 1, event(3, anonymousId="b", userId="u")))
    new = split_profile_id(SITE, "1")
    ids = [("user_id", "u")] if hop_2_was_first else [("user_id", "u"), ("anonymous_id", "b")]
    unmerge = Unmerge(unmerge_id="1", site=SITE, profile_id=A, new_profile_id=new, ids=ids, at_ms=T0 + 9)
    world.log.append(MERGES, b"", encode_unmerge(unmerge), None, 0)
    await split(world.store, unmerge, SETTINGS)
    await world.rewind(size)
    if hop_2_was_first:  # its head went back, too, and it does not wait for hop 1
        await split(world.store, unmerge, SETTINGS)
    await world.worker(0, 1)
    assert {await world.owner(*id) for id in ids} == {new}
    assert await world.owner("anonymous_id", "a") == A
