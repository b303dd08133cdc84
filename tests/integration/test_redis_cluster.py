"""The workers' and the endpoint's Redis as a Redis Cluster of three real nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from stream.fold import Folder
from stream.packing import unpackb
from stream.profile import About, Profile, ProfileCodec
from stream.records import decode
from stream.redis_store import Head, Store
from stream.rollups import roll
from stream.signals import SIGNALS
from tests.harness import Cluster, Servers, Stack, cli, embedded_cluster, eventually, in_thread
from tests.integration.test_worker import CARTS, Traffic, counters, equals, profile, track
from tests.integration.test_worker_health import owned
from tests.unit.conditions import when
from tracker.cli.segments import members_now
from tracker.cli.up import ready
from tracker.contract import keys
from tracker.contract.loading import load
from tracker.contract.predicates import Segment
from tracker.contract.redis_url import admin, reader
from tracker.contract.windows import Zone
from tracker.counters import read_counters, read_visitors
from tracker.embedded.process import Child, free_port, wait_until

pytestmark = pytest.mark.integration
PARTITIONS = 16


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = embedded_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    store = Store(cluster.url)
    try:
        await store.start()
        yield store
    finally:
        await store.stop()


def owner(cluster: Cluster, key: str) -> int:
    """Which of the three nodes has the key's slot."""
    for n, port in enumerate(cluster.ports):
        server: Any
        with Redis(port=port) as server:
            for first, last, (_, at, *_), *_ in server.execute_command("CLUSTER SLOTS"):
                if first <= key_slot(key.encode()) <= last and at == port:
                    return n
    raise AssertionError("no owner")


async def test_partitions_are_spread_over_the_nodes_and_each_command_finds_its_own(
    cluster: Cluster, store: Store
) -> None:
    heads = [keys.profiles_tag(p) + ":head" for p in range(PARTITIONS)]
    assert {owner(cluster, key) for key in heads} == {0, 1, 2}
    nexts = await asyncio.gather(*(Head(store, key).claim(5) for key in heads))
    assert nexts == [5] * PARTITIONS
    found = await asyncio.gather(*(store.run("HGET", key, "next") for key in heads))
    assert found == [b"5"] * PARTITIONS
    await store.ping()


async def test_one_start_node_is_enough_and_a_dead_one_before_it_does_no_harm(cluster: Cluster) -> None:
    store = Store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.ports[1]}")
    try:
        await store.start()
        for p in range(PARTITIONS):
            await Head(store, keys.events_tag(p) + ":head").claim(0)
    finally:
        await store.stop()


async def test_the_read_side_counts_over_all_nodes(cluster: Cluster, store: Store) -> None:
    redis = reader(cluster.url)
    try:
        script = redis.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        pipe = redis.pipeline(transaction=False)
        for p in range(PARTITIONS):
            await script(keys=[f"{{p{p}}}:n"], args=[p], client=pipe)
        for p in range(PARTITIONS):
            pipe.get(f"{{p{p}}}:n")
        assert await pipe.execute() == [*range(PARTITIONS), *(str(p).encode() for p in range(PARTITIONS))]
        assert await script(keys=["{p1}:n"], args=[1]) == 2
        assert await redis.ping() is True
    finally:
        await redis.aclose()


async def test_counters_and_visitors_of_long_windows_are_read_over_all_nodes(cluster: Cluster, store: Store) -> None:
    settings, site, zone = load({"TRACKER_DEMO": "1"}, partitions=PARTITIONS), "s1", Zone("Asia/Ho_Chi_Minh")
    now_s = 1_795_580_407
    day = zone.day(now_s - 3 * 86400)
    for p in range(PARTITIONS):
        await store.run("HSET", keys.counter_key(p, site, "site", "d", day), "event|a", p, "sum", p)
        await store.run("HSET", keys.visitors_cut_key(p), f"{site}:all", now_s // 60)
        for of in (day, day + 86400):
            await store.run("PFADD", keys.visitor_day_key(p, site, "all", of), f"visitor-{p}")
    redis = reader(cluster.url)
    try:
        for _ in ("from the partitions", "rolled up"):
            answer = await read_counters(redis, settings, site, "event", "7d", now_s * 1000)
            assert answer["groups"] == [{"key": "a", "count": sum(range(PARTITIONS))}]
            await roll(store, settings, site, zone, now_s, 7 * 86400)
        rolled = await store.run("HGET", keys.rollup_key(site, "site", day), "sum")
        assert int(rolled) == sum(range(PARTITIONS))
        visitors = await read_visitors(redis, settings, site, "7d", now_s * 1000)
        assert (visitors["visitors"], visitors["exact"]) == (PARTITIONS, False)
    finally:
        await redis.aclose()


async def test_a_cluster_without_all_its_slots_is_an_error_that_readers_know(
    own_cluster: Callable[..., Cluster],
) -> None:
    cluster = await asyncio.to_thread(own_cluster)
    redis, store = reader(cluster.url), Store(cluster.url)
    try:
        await store.start()
        assert await redis.get("{p1}:n") is None
        cluster.children["redis-0"].kill()

        async def read() -> None:
            pipe: Any = redis.pipeline()
            for p in range(PARTITIONS):
                pipe.get(f"{{p{p}}}:n")
            await pipe.execute()

        async def until_it_fails(call: Callable[[], Awaitable[None]]) -> None:
            for _ in range(100):  # The others notice after the cluster's node timeout.
                await call()
                await asyncio.sleep(0.1)

        with pytest.raises((RedisError, OSError)):
            await until_it_fails(store.ping)
        with pytest.raises(RedisError):
            await until_it_fails(read)
        with pytest.raises(RedisError):
            await reader(f"redis+cluster://127.0.0.1:{cluster.ports[0]}").get("a")
    finally:
        await redis.aclose()
        await store.stop()


# -- a slot on its way to another node


class Moving:
    """A slot that is half moved, by CLUSTER SETSLOT."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.slot = key_slot(key.encode())
        self.at = owner(cluster, key)
        self.to = (self.at + 1) % len(cluster.ports)
        self.cluster = cluster
        self.servers: list[Any] = [Redis(port=port) for port in cluster.ports]
        self.ids = [server.execute_command("CLUSTER MYID").decode() for server in self.servers]

    def __enter__(self) -> Moving:
        self.servers[self.to].execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", self.ids[self.at])
        self.servers[self.at].execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", self.ids[self.to])
        return self

    def move(self, count: int = 1000) -> None:
        """Move some keys."""
        names = self.servers[self.at].execute_command("CLUSTER GETKEYSINSLOT", self.slot, count)
        if names:
            port = self.cluster.ports[self.to]
            self.servers[self.at].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *names)

    def finish(self) -> None:
        self.move()
        for n in (self.to, self.at, 3 - self.to - self.at):
            self.servers[n].execute_command("CLUSTER SETSLOT", self.slot, "NODE", self.ids[self.to])

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.close()


def blob(head: Head, base: int, next: int, minute: int) -> dict[str, Any]:
    """What the signals hop applies: one profile, which says `next`, one count and one timer."""
    folder = Folder(SIGNALS, load({}))
    fx = folder.fold(decode([]), {}, [], {}, 7)
    fx.src[0] = (1, 0)
    fx.extra["demo", minute] = {"popup|viewed|x": 1}
    fx.gauges["carts_open|demo"] = 1
    found = folder.blob(fx, epoch=head.epoch, seq=head.seq, base=base, next=next)
    return found | {"writes": [["demo:p1", ["about", str(next)]]], "due": [["demo|p1", 5]]}


async def test_while_a_slot_moves_a_chunk_has_no_effect_at_all_and_all_of_it_after(
    cluster: Cluster, store: Store
) -> None:
    key, about, gauges = "{p77}:head", "{p77}:v:demo:p1", "{p77}:g"
    head = Head(store, key)
    assert await head.claim(0) == 0
    await head.write("apply", blob(head, 0, 5, 60))
    with Moving(cluster, key) as moving:
        # Some of what the chunk writes is here, some not yet anywhere: without its first question the script would
        # end in its middle.
        with pytest.raises(RedisError, match="non local key"):
            await head.write("apply", blob(head, 5, 9, 120))
        assert await store.run("HGETALL", about) == {b"about": b"5"}
        assert await store.run("HGET", gauges, "carts_open|demo") == b"1"
        moving.move(3)
        with pytest.raises(RedisError):
            await head.write("apply", blob(head, 5, 9, 120))
        moving.finish()

    async def again() -> bool:  # as a lane does
        try:
            assert await head.claim(None) == 5
        except RedisError:
            return False
        return True

    await eventually(again)
    await head.write("apply", blob(head, 5, 9, 120))
    assert unpackb(await store.call("load", key, [["demo:p1"], 7, 9]))[:2] == [[["about", "9"]], ["demo|p1"]]
    assert await store.run("HGET", gauges, "carts_open|demo") == b"2"


async def test_identifiers_are_not_linked_by_halves_while_their_slot_moves(cluster: Cluster, store: Store) -> None:
    key = "{s:moving}:id"
    rules = [1_000_000, 50, [["user_id", 1, 0], ["anonymous_id", 5, 0]]]
    items = [[1, 1, "m1", "p-u", [[0, "u"], [1, "a"]]]]
    with Moving(cluster, key) as moving:
        with pytest.raises(RedisError):
            await store.call("identify", key, [*rules, items])
        assert await asyncio.to_thread(names, cluster, "{s:moving}*") == set()
        moving.finish()

    async def again() -> bool:
        try:
            return bool(await store.call("identify", key, [*rules, items]))
        except RedisError:
            return False

    await eventually(again)


def names(cluster: Cluster, pattern: str) -> set[str]:
    found: set[str] = set()
    for port in cluster.ports:
        with Redis(port=port, decode_responses=True) as server:
            found |= set(server.scan_iter(pattern))
    return found


# -- the whole stack


async def test_who_asks_all_nodes_learns_of_a_failover_also_when_nobody_asks_for_a_key(
    own_cluster: Callable[..., Cluster],
) -> None:
    """As a worker that claims: the first thing it asks for is what every node has to answer."""
    cluster = await asyncio.to_thread(lambda: own_cluster(primaries=3, replicas=3))
    store = Store(cluster.url)
    try:
        await store.start()
        cluster.children["redis-1"].kill()
        assert len(await store.renew_log()) == 1  # That one's partitions are not claimed now, all others are.
        await asyncio.sleep(1.0)  # The map is looked at again, and is the old one still.

        async def renewed() -> bool:
            return not await store.renew_log()

        await eventually(renewed, 30, every_s=0.25)
    finally:
        await store.stop()


async def test_a_primary_that_dies_amid_traffic_costs_no_event(
    own_servers: Callable[[], Servers], own_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    servers = await asyncio.to_thread(own_servers)
    cluster = await asyncio.to_thread(lambda: own_cluster(primaries=3, replicas=3))
    servers.redis = cluster.url
    stack = Stack(tmp_path / "stack", servers, partitions=PARTITIONS)
    try:
        await asyncio.to_thread(stack.start)
        traffic = Traffic(stack, stack.site())
        await traffic.send(range(300), 25)
        sending = asyncio.create_task(traffic.send(range(1000, 1600), 25))
        await asyncio.sleep(0.3)
        cluster.children["redis-1"].kill()
        await sending
        await eventually(lambda: equals(counters(stack, traffic.site), traffic.by_event()), 120, every_s=1)
        await asyncio.sleep(2)  # Too much would come late.
        assert await counters(stack, traffic.site) == traffic.by_event()
        assert await profile(stack, traffic.site, "anonymous_id", "v1")
        assert len(await stack.consume(CARTS, 10_000, site=traffic.site, timeout_s=15)) == traffic.left_carts()
    finally:
        await asyncio.to_thread(stack.stop)


def test_doctor_looks_at_every_node_of_the_cluster(cluster: Cluster) -> None:
    done = in_thread(lambda: cli("doctor", kafka="127.0.0.1:1", redis=cluster.url))
    assert "ok      Redis Cluster: 3 primaries, 16384 of 16384 slots, state ok" in done.stdout
    for port in cluster.ports:
        assert f"at 127.0.0.1:{port}" in done.stdout
    gone = cli("doctor", kafka="127.0.0.1:1", redis="redis+cluster://:geheim@127.0.0.1:1")
    assert "problem Redis 127.0.0.1:1: " in gone.stdout
    assert "geheim" not in gone.stdout


def test_a_preview_of_a_segment_reads_the_profiles_of_every_node(cluster: Cluster) -> None:
    settings = load({"TRACKER_REDIS": cluster.url, "TRACKER_DEMO": "1"})
    codec = ProfileCodec(SIGNALS)
    owners = set()
    client = admin(cluster.url)
    for n in range(12):
        profile = Profile("demo", f"preview-{n}")
        profile.about = About(first_seen_ms=1, last_seen_ms=1, traits={"city": "Huế" if n % 3 else "Vinh"})
        key = keys.profile_key(n, "demo", profile.id)
        owners.add(owner(cluster, key))
        client.hset(key, mapping=dict(codec.fields(profile)))
    client.close()
    assert len(owners) == 3
    hue = when({"field": "trait", "name": "city", "op": "=", "value": "Huế"})
    found = members_now(settings, "demo", Segment("hue", hue), 100)
    assert (found["profiles"], found["members"]) == (12, 8)


CUT_OFF = """
import os
from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import ConnectionError
from stream.worker import run
from tracker.contract.loading import (load)

def cut(method):
    async def tried(self, *args, **kwargs):
        if self.port == {port} and os.path.exists({flag!r}):
            await self.disconnect(nowait=True)
            raise ConnectionError("no route")
        return await method(self, *args, **kwargs)
    return tried

AbstractConnection.send_packed_command = cut(AbstractConnection.send_packed_command)
Connection._connect = cut(Connection._connect)
raise SystemExit(run(load()))
"""
"""A worker whose network does not reach the node at a port while there is a file."""


async def test_a_worker_that_alone_does_not_reach_a_node_leaves_and_one_of_many_stays(
    own_servers: Callable[[], Servers], own_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    servers = await asyncio.to_thread(own_servers)
    cluster = await asyncio.to_thread(own_cluster)
    servers.redis = cluster.url
    stack = Stack(tmp_path / "stack", servers, partitions=PARTITIONS, session_timeout_s=6, cut_off_s=5)
    flag, port = tmp_path / "cut", free_port()
    code = CUT_OFF.format(port=cluster.ports[1], flag=str(flag))
    env = stack.env | {"TRACKER_WORKER_ID": "other", "TRACKER_WORKER_PORT": str(port)}
    other = Child("other", [sys.executable, "-c", code], tmp_path / "other.log", env=env, cwd=tmp_path)
    stack.others.append(other)

    async def own(mine: int, others: int) -> bool:
        assert (await owned(f"http://127.0.0.1:{port}"), await owned(stack.worker_http)) == (mine, others)
        return True

    def left() -> tuple[int, int]:
        logs = (other.log.read_text("utf-8"), stack.worker.log.read_text("utf-8"))
        return logs[0].count("leaving the group"), logs[1].count("leaving the group")

    try:
        await asyncio.to_thread(stack.start)
        other.start()
        await asyncio.to_thread(lambda: wait_until(lambda: ready("127.0.0.1", port), [other], 60, "other"))
        await eventually(lambda: own(PARTITIONS, PARTITIONS), 40)
        site = stack.site()
        flag.touch()
        await stack.send(site, *(track("Product Viewed", n, who=f"a{n}") for n in range(100)))
        await eventually(lambda: own(0, 2 * PARTITIONS), 40)
        await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 100}), 20)
        missed = f"Redis: 127.0.0.1:{cluster.ports[1]} has not answered for 5 s (setting cut_off_s)"
        whole = f"{stack.settings.worker_id} reaches all nodes"
        assert f"{missed}, and {whole}: leaving the group until it does" in other.log.read_text("utf-8")
        flag.unlink()
        await eventually(lambda: own(PARTITIONS, PARTITIONS), 40)
        assert left() == (1, 0)

        node = cluster.children["redis-1"]
        await asyncio.to_thread(node.kill)  # Now nobody reaches it.
        await asyncio.sleep(10)
        assert left() == (1, 0)
        node.start()
        await stack.send(site, *(track("Product Viewed", 100 + n, who=f"a{n}") for n in range(100)))
        await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 200}), 40)
        assert left() == (1, 0)
    finally:
        await asyncio.to_thread(stack.stop)
