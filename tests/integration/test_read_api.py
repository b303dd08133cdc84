"""The read API over the real Redis: keys as contract/keys.py describes them, as a worker would write them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from tests.harness import PARTITIONS, Site, Stack, eventually
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.loading import load
from tracker.contract.triggers import rfc3339
from tracker.contract.windows import WINDOWS, Zone
from tracker.counters import GROUPS, read_counters

pytestmark = pytest.mark.integration
ZONE = Zone("Asia/Ho_Chi_Minh")


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(stack.settings.redis)
    try:
        yield client
    finally:
        await client.aclose()


async def count(redis: Redis, partition: int, site: str, at_s: int, **fields: int) -> None:
    """What a worker does with events at `at_s`: each tier's bucket."""
    for tier, bucket in zip(keys.TIERS, ZONE.buckets(at_s), strict=True):
        for field, n in (*fields.items(), ("sum", sum(fields.values()))):
            await redis.hincrby(keys.counter_key(partition, site, "site", tier, bucket), field, n)


async def get(stack: Stack, site: Site, query: str = "") -> tuple[int, Any]:
    return await stack.request("GET", f"/api/v1/sites/{site.name}/counters{query}", bearer=site.secret_key)


def groups(answer: Any) -> dict[str, int]:
    return {group["key"]: group["count"] for group in answer["groups"]}


async def test_counters_are_the_sum_of_all_partitions_in_the_window(stack: Stack, redis: Redis) -> None:
    site, now_s = stack.site(), int(time.time())
    for partition in range(PARTITIONS):
        await count(redis, partition, site.name, now_s, **{"event|A": 2, "event|B|b": 3, "channel|site": 5, "total": 5})
    await count(redis, 0, site.name, now_s - 200, **{"event|A": 100})
    await count(redis, 0, site.name, now_s - 3000, **{"event|A": 1000})
    await count(redis, 1, site.name, now_s - 80_000, **{"event|A": 10_000})
    await count(redis, 1, site.name, now_s - 90_000, **{"event|A": 100_000})
    a, b = 2 * PARTITIONS, 3 * PARTITIONS
    for window, more in (("1m", 0), ("5m", 100), ("1h", 1100), ("24h", 11_100)):
        status, answer = await get(stack, site, f"?by=event&window={window}")
        assert status == 200
        assert answer["window"] == window
        assert groups(answer) == {"A": a + more, "B|b": b}
    assert groups((await get(stack, site, "?by=channel"))[1]) == {"site": 5 * PARTITIONS}


async def test_groups_are_sorted_by_count_and_then_by_name(stack: Stack, redis: Redis) -> None:
    site = stack.site()
    await count(redis, 3, site.name, int(time.time()), **{"event|b": 1, "event|a": 1, "event|c": 9, "event|é": 1})
    answer = (await get(stack, site))[1]
    assert answer["groups"] == [
        {"key": "c", "count": 9}, {"key": "a", "count": 1}, {"key": "b", "count": 1}, {"key": "é", "count": 1},
    ]  # fmt: skip


async def test_popups_and_messages_are_groups_of_their_own(stack: Stack, redis: Redis) -> None:
    site = stack.site()
    fields = {keys.popup_field("viewed", "p|1"): 4, keys.message_field("email", "seen"): 3, keys.event_field("x"): 1}
    await count(redis, 2, site.name, int(time.time()), **fields)
    assert groups((await get(stack, site, "?by=popup"))[1]) == {"viewed|p|1": 4}
    assert groups((await get(stack, site, "?by=message"))[1]) == {"email|seen": 3}


async def test_large_counts_are_exact(stack: Stack, redis: Redis) -> None:
    site = stack.site()
    await count(redis, 0, site.name, int(time.time()), **{"event|A": 2**52})
    await count(redis, 1, site.name, int(time.time()), **{"event|A": 2**52 + 1})
    assert groups((await get(stack, site))[1]) == {"A": 2**53 + 1}


async def test_complete_until_is_the_clock_of_the_slowest_partition(stack: Stack, redis: Redis) -> None:
    site = stack.site()

    async def told() -> bool:
        clocks = [await redis.hget(keys.profiles_tag(p) + ":head", "clock_ms") for p in range(PARTITIONS)]
        answer = (await get(stack, site))[1]
        if None in clocks:  # the worker has only begun
            return False
        assert rfc3339(min(int(c) for c in clocks if c is not None)) <= answer["complete_until"]
        return bool(answer["complete_until"] <= rfc3339(time.time_ns() // 1_000_000))

    await eventually(told)


async def test_without_a_clock_in_each_partition_nothing_is_called_complete(stack: Stack, redis: Redis) -> None:
    settings = load({}, partitions=PARTITIONS + 1)  # the last one has no owner
    answer = await read_counters(redis, settings, "nobody", "event", "1h", time.time_ns() // 1_000_000)
    assert answer == {"window": "1h", "groups": [], "other": 0, "unnamed": 0, "complete_until": None}


async def test_a_day_of_64_partitions_is_read_in_one_go(stack: Stack, redis: Redis) -> None:
    site, now_s = stack.site(), int(time.time())
    pipe = redis.pipeline(transaction=False)
    for partition in range(64):
        for hour in range(25):
            at = now_s // 3600 * 3600 - hour * 3600
            pipe.hset(
                keys.counter_key(partition, site.name, "site", "h", at), mapping={f"event|E{i}": 1 for i in range(40)}
            )
    await pipe.execute()
    settings = load({}, partitions=64)
    await read_counters(redis, settings, site.name, "event", "24h", now_s * 1000)
    took_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        answer = await read_counters(redis, settings, site.name, "event", "24h", now_s * 1000)
        took_s.append(time.perf_counter() - started_s)
    assert len(answer["groups"]) == 40
    assert answer["groups"][0]["count"] in (64 * 23, 64 * 24)
    assert min(took_s) < 0.3  # about 0.03 s on an idle machine


@pytest.mark.parametrize(
    ("query", "code", "allowed"),
    [
        ("?window=7", "bad_window", WINDOWS),
        ("?window=", "bad_window", WINDOWS),
        ("?by=total", "bad_by", GROUPS),
        ("?limit=0", "bad_limit", ("1 to 1000",)),
        ("?limit=1001", "bad_limit", ("1 to 1000",)),
        ("?limit=ten", "bad_limit", ("1 to 1000",)),
        ("?limit=%D9%A3", "bad_limit", ("1 to 1000",)),
    ],
)
async def test_an_unknown_window_or_group_is_answered_with_the_known_ones(
    stack: Stack, query: str, code: str, allowed: Any
) -> None:
    status, answer = await get(stack, stack.sites[0], query)
    assert (status, answer["success"], answer["code"]) == (400, False, code)
    for value in allowed:
        assert value in answer["hint"]


async def test_visitors_have_windows_too(stack: Stack) -> None:
    site = stack.sites[0]
    path = f"/api/v1/sites/{site.name}/visitors?window="
    status, answer = await stack.request("GET", path + "2d", bearer=site.secret_key)
    assert (status, answer["code"]) == (400, "bad_window")
    assert "90d" in answer["hint"]


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("messages?by=campaign", "groups"), ("feedback?by=product&limit=5", "total"), ("steps", "moves"),
        ("retention?weeks=53", "cohorts"), ("usage", "stickiness"), ("carts?by=campaign", "groups"),
        ("carts?by=product", "more_groups"), ("sales", "renewal_rate"),
    ],
)  # fmt: skip
async def test_a_site_with_nothing_has_reports_of_nothing(stack: Stack, path: str, part: str) -> None:
    site = stack.sites[0]
    status, answer = await stack.request("GET", f"/api/v1/sites/{site.name}/{path}", bearer=site.secret_key)
    assert (status, part in answer) == (200, True), answer


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("messages?by=x", "bad_by"), ("feedback?by=x", "bad_by"), ("feedback?window=2d", "bad_window"),
        ("steps?window=", "bad_window"), ("retention?weeks=54", "bad_weeks"), ("usage?window=x", "bad_window"),
        ("carts?by=x", "bad_by"), ("messages?limit=0", "bad_limit"),
    ],
)  # fmt: skip
async def test_a_report_of_something_unknown_is_told(stack: Stack, path: str, code: str) -> None:
    site = stack.sites[0]
    status, answer = await stack.request("GET", f"/api/v1/sites/{site.name}/{path}", bearer=site.secret_key)
    assert (status, answer["code"]) == (400, code)


@pytest.mark.parametrize(
    "path", ["counters", "profiles/user_id/u1", "counters?window=7d", "visitors", "segments", "retention", "feedback"]
)
async def test_only_the_sites_own_secret_key_reads(stack: Stack, path: str) -> None:
    site, other = stack.sites[0], stack.sites[1]
    path = f"/api/v1/sites/{site.name}/{path}"
    for keys_, status, code in (
        ({}, 401, "missing_key"),
        ({"key": site.secret_key}, 401, "missing_key"),
        ({"bearer": ""}, 401, "missing_key"),
        ({"bearer": "unknown-key"}, 401, "invalid_key"),
        ({"bearer": site.write_key}, 403, "write_key"),
        ({"bearer": other.secret_key}, 403, "other_site"),
    ):
        found, answer = await stack.request("GET", path, **keys_)
        assert (found, answer["code"]) == (status, code)
        assert answer["hint"]
    found, answer = await stack.request("GET", "/api/v1/sites/no-such-site/counters", bearer=site.secret_key)
    assert (found, answer["code"]) == (403, "other_site")


@pytest.mark.parametrize("value", ["u1", "người dùng/1?x=2#y", "a:b*{c}", "x" * 200])
async def test_a_profile_is_found_by_each_of_its_ids(stack: Stack, redis: Redis, value: str) -> None:
    site, profile_id = stack.site(), "9f0e0b0f-5b0c-5a11-8d0f-1d6e6c1a5b7e"
    about = {"user_id": value, "traits": {"name": "Lan"}, "first_seen_ms": 1}
    partition = partition_of(profile_id.encode(), PARTITIONS)
    fields = {"about": json.dumps(about), "cart": json.dumps({"stage": "cart"}), "churn": json.dumps(None)}
    await redis.hset(keys.profile_key(partition, site.name, profile_id), mapping=fields)  # type: ignore[arg-type]
    await redis.set(keys.identifier_key(site.name, "user_id", value), profile_id)
    expected = {
        "profile_id": profile_id, "site": site.name, "about": about,
        "signals": {"cart": {"stage": "cart"}, "churn": None}, "engagement": None, "churn": {},
    }  # fmt: skip
    for id_type, id_ in (("user_id", value), ("profile_id", profile_id)):
        path = f"/api/v1/sites/{site.name}/profiles/{id_type}/{quote(id_, safe='')}"
        assert await stack.request("GET", path, bearer=site.secret_key) == (200, expected)
    status, answer = await stack.request(
        "GET", f"/api/v1/sites/{site.name}/profiles/anonymous_id/{quote(value, safe='')}", bearer=site.secret_key
    )
    assert (status, answer["code"]) == (404, "unknown_profile")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("user_id/nobody", 404, "unknown_profile"),
        ("profile_id/nobody", 404, "unknown_profile"),
        ("cookie/x", 400, "bad_id_type"),
        ("email/no-address", 404, "unknown_profile"),
        ("user_id/null", 404, "unknown_profile"),
        (f"user_id/{'x' * 201}", 400, "bad_id"),
        ("user_id", 404, "not_found"),
    ],
)
async def test_an_unknown_profile_is_told(stack: Stack, path: str, status: int, code: str) -> None:
    site = stack.sites[0]
    found, answer = await stack.request("GET", f"/api/v1/sites/{site.name}/profiles/{path}", bearer=site.secret_key)
    assert (found, answer["success"], answer["code"]) == (status, False, code)


async def test_what_the_worker_wrote_is_read(stack: Stack) -> None:
    site, user = stack.site(), "reader-1"
    await stack.send(site, {"type": "identify", "userId": user, "anonymousId": "a-1", "traits": {"name": "Lan"}},
                     {"type": "track", "event": "Product Viewed", "userId": user})  # fmt: skip

    async def counted() -> bool:
        return groups((await get(stack, site, "?by=event&window=5m"))[1]) == {"identify": 1, "Product Viewed": 1}

    await eventually(counted)
    status, answer = await stack.request("GET", f"/api/v1/sites/{site.name}/visitors?window=1m", bearer=site.secret_key)
    assert status == 200
    assert (answer["visitors"], answer["exact"], answer["groups"]) == (1, True, [{"key": "site", "count": 1}])
    assert groups((await get(stack, site, "?by=event&window=90d"))[1]) == {"identify": 1, "Product Viewed": 1}
    for id_type, id_ in (("user_id", user), ("anonymous_id", "a-1")):
        path = f"/api/v1/sites/{site.name}/profiles/{id_type}/{id_}"
        status, answer = await stack.request("GET", path, bearer=site.secret_key)
        assert status == 200
        assert answer["site"] == site.name
        assert answer["about"]
