"""All keys that one script touches lie in one slot, so that a Redis Cluster runs it. Seen by MONITOR of a real Redis
while the hops work: a script that grows a key is seen, too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot

from stream.fold import Folder
from stream.lease import Lease
from stream.redis_store import SCRIPTS, Store
from stream.resolve import Resolve
from stream.rollups import roll
from stream.signals import SIGNALS
from stream.signals_hop import SignalsHop
from tests.harness import embedded_redis
from tests.integration.test_stream_hops import SETTINGS, T0, added, chunk, event
from tracker.contract.events import encode_clock
from tracker.contract.keys import WAITS_KEY
from tracker.contract.merges import Merge, Unmerge, encode_merge, encode_unmerge, split_profile_id
from tracker.contract.topics import EVENTS, PROFILE_EVENTS
from tracker.contract.windows import Zone

pytestmark = pytest.mark.integration


class Published:
    """Stands for a producer whose Kafka acks at once: what is published is none of this test's."""

    def append(self, *_: Any) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def extend(self, *_: Any) -> set[asyncio.Future[None]]:
        return {self.append()}


async def work(store: Store) -> None:
    """Make every script do all that it can."""
    out: Any = Published()
    resolve = Resolve(3, store, out, SETTINGS)
    await resolve.claim(0)
    both = {"anonymousId": "a1", "userId": "u1"}
    await resolve.process(chunk(EVENTS, 0, event(0, anonymousId="a1"), event(1, userId="u1"), event(2, **both), b"{"))
    signals = SignalsHop(5, store, out, Folder(SIGNALS, SETTINGS), SETTINGS)
    await signals.claim(0)
    order = json.loads(added(3)) | {"event": "Order Completed", "properties": {"order_id": "o", "revenue": 3}}
    await signals.process(chunk(PROFILE_EVENTS, 0, encode_clock(T0), added(1), added(2), json.dumps(order).encode()))
    await signals.process(chunk(PROFILE_EVENTS, 4, encode_clock(T0 + 4_000_000)))  # fires, publishes, trims
    site = json.loads(added(1))["site"]
    await roll(store, SETTINGS, site, Zone("Asia/Ho_Chi_Minh"), T0 // 1000 + 100_000, 7 * 86400)
    merge = Merge(merge_id="m", site="demo", winner="p2", loser="p1", rule="r", message_id="m", at_ms=T0)
    ids = [("user_id", "u1")]
    unmerge = Unmerge(
        unmerge_id="1", site="demo", profile_id="p2", new_profile_id=split_profile_id("demo", "1"), ids=ids, at_ms=T0
    )
    await signals.process(chunk(PROFILE_EVENTS, 5, encode_merge(merge), encode_unmerge(unmerge)))
    await store.run("HSET", WAITS_KEY, "gone", "1:2", "frozen", "1:3")
    await store.call("forget", WAITS_KEY, [["gone", "1:2"], ["frozen", "1:2"], ["nobody", "1:2"]])
    assert await store.run("HGETALL", WAITS_KEY) == {b"frozen": b"1:3"}  # it goes on, and has said it anew
    lease = Lease(store, "w")
    assert await lease.take() is None
    await lease.let_go()


async def test_the_keys_of_every_script_share_the_slot_of_its_first(tmp_path: Path) -> None:
    url, child = await asyncio.to_thread(embedded_redis, tmp_path)
    store = Store(url)
    try:
        with Redis.from_url(url, decode_responses=True) as client, client.monitor() as monitor:
            await store.start()
            await work(store)
            client.echo("the end")
            calls = scripts(monitor)
    finally:
        await store.stop()
        child.stop()
    names = {store._sha[name]: name for name in SCRIPTS}
    assert {names[sha] for sha, _, _ in calls} == set(SCRIPTS)
    touched: dict[str, set[str]] = {}
    for sha, first, keys in calls:
        touched.setdefault(names[sha], set()).update(keys)
        for key in keys:
            assert key_slot(key.encode()) == key_slot(first.encode()), (names[sha], first, key)
    assert len(touched["apply"]) > 10  # MONITOR shows what the scripts call
    assert {key.split(":")[2] for key in touched["identify"]} == {"epochs", "id", "ids", "to", "merges", "run"}


def scripts(monitor: Any) -> list[tuple[str, str, set[str]]]:
    """(sha, first key, keys that it touched) of each script that ran."""
    found: list[tuple[str, str, set[str]]] = []
    for line in monitor.listen():
        words = line["command"].split(" ")
        if words[0] == "ECHO":
            return found
        if words[0] == "EVALSHA":
            found.append((words[1], words[3], set()))
        elif line["client_type"] == "lua" and words[0] not in ("TIME", "INFO"):
            found[-1][2].add(words[1])
    raise AssertionError("MONITOR ended")
