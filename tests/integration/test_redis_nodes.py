"""Pipelines to a real Redis: errors of single commands, a server that is silent, waiters that give up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream.redis_store import Store

pytestmark = pytest.mark.integration

PAUSE_MS = 600


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    store = Store(redis_url, timeout_s=PAUSE_MS / 2000)
    await store.start()
    yield store
    await store.stop()


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as admin:
        yield admin


async def test_one_refused_command_of_a_pipeline_is_no_others(store: Store) -> None:
    asked = [store.run("SET", "nodes:a", "1"), store.run("LPUSH", "nodes:a", "x"), store.run("GET", "nodes:a")]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(told[1], ResponseError)
    assert told[2] == b"1"


async def test_answers_have_redis_pys_forms(store: Store) -> None:
    await store.run("DEL", "nodes:z", "1")
    await store.run("ZADD", "nodes:z", "1", "a", "2", "b")
    assert await store.run("ZSCAN", "nodes:z", 0) == (0, [(b"a", 1.0), (b"b", 2.0)])
    await store.run("HSET", "nodes:h", "a", "1")
    assert await store.run("HGETALL", "nodes:h") == {b"a": b"1"}


async def test_an_answer_that_comes_too_late_is_not_the_next_commands(store: Store, admin: Redis) -> None:
    await store.run("SET", "nodes:late", "late")
    await store.run("SET", "nodes:next", "next")
    await admin.client_pause(PAUSE_MS)
    with pytest.raises(RedisTimeoutError, match=r"has not answered for 0\.3 s"):
        await store.run("GET", "nodes:late")
    assert store.silent_s() > 0
    await asyncio.sleep(PAUSE_MS / 1000)
    assert await store.run("GET", "nodes:next") == b"next"
    assert store.silent_s() == 0


async def test_a_command_whose_waiter_gives_up_takes_no_answer_from_others(store: Store, admin: Redis) -> None:
    await store.run("SET", "nodes:a", "a")
    await store.run("SET", "nodes:b", "b")
    await admin.client_pause(PAUSE_MS // 4)
    given_up, other = store.run("GET", "nodes:a"), store.run("GET", "nodes:b")
    await asyncio.sleep(0.01)
    given_up.cancel()
    assert await other == b"b"
