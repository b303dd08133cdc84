"""A crash of Redis that tears the last transaction of its append-only file: what was torn stays undone for good."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from stream.fold import Folder
from stream.redis_store import Store
from stream.signals import SIGNALS
from stream.signals_hop import SignalsHop
from tests.harness import await_redis, embedded_redis, eventually
from tests.integration.test_stream_hops import SETTINGS, added, chunk, no_kafka
from tracker.contract.topics import PROFILE_EVENTS

pytestmark = pytest.mark.integration


async def owner(store: Store) -> SignalsHop:
    hop = SignalsHop(0, store, no_kafka(), Folder(SIGNALS, SETTINGS), SETTINGS)
    await hop.claim(0)
    return hop


async def test_a_torn_transaction_is_not_applied_by_a_later_restart(tmp_path: Path) -> None:
    url, child = await asyncio.to_thread(embedded_redis, tmp_path)
    log = tmp_path / "redis" / "appendonly.aof"
    store = Store(url)
    try:
        await store.start()
        await store.renew_log()
        hop = await owner(store)
        await eventually(lambda: settled(url))
        await hop.process(chunk(PROFILE_EVENTS, 0, added(1)))
        await eventually(lambda: b"clock_ms" in log.read_bytes())
        child.kill()
        # The script's last write, to the head, never came to the disk; its first did.
        os.truncate(log, log.read_bytes().rindex(b"clock_ms"))
        child.start()
        await asyncio.to_thread(await_redis, child, url)

        await store.stop()
        store = Store(url)
        await store.start()
        await store.renew_log()
        hop = await owner(store)
        assert hop.next == 0
        await hop.process(chunk(PROFILE_EVENTS, 0, added(1)))
        before = await open_carts(url)
        await eventually(lambda: settled(url))
        child.stop()
        child.start()
        await asyncio.to_thread(await_redis, child, url)
        assert await open_carts(url) == before == b"1"
    finally:
        await store.stop()
        child.stop()


async def settled(url: str) -> bool:
    async with Redis.from_url(url) as redis:
        info = await redis.info("persistence")
    return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]


async def open_carts(url: str) -> Any:
    """A gauge, which Redis adds to: what is written as a whole would not show what came back."""
    async with Redis.from_url(url) as redis:
        return await redis.hget("{p0}:g", "carts_open|demo")
