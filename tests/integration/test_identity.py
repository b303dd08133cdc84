"""Two profiles with a history that turn out to be one person, through the real stack."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.harness import Site, Stack, assert_one_line, cli, eventually
from tests.integration.test_worker import counters, equals, profile, track
from tracker.contract import keys
from tracker.contract.codec import new_profile_id, partition_of
from tracker.contract.topics import MERGES, PROFILE_EVENTS

pytestmark = pytest.mark.integration
CARTS = "tracker.triggers.cart_abandoned.v1"


def identify(n: int, **fields: Any) -> dict[str, Any]:
    return {"type": "identify", "messageId": f"identify-{n}", "traits": {}, **fields}


async def state(stack: Stack, site: Site, id_type: str, value: str, events: int) -> Any:
    """The profile once it has so many events."""

    async def there() -> Any:
        found = await profile(stack, site, id_type, value)
        assert found
        assert found["about"].get("events") == events, found
        return found

    return await eventually(there)


def orders_of(found: Any) -> int:
    return len(found["signals"]["purchase"]["orders"])


async def test_what_two_profiles_have_is_one_profiles_after_they_meet(stack: Stack) -> None:
    site = stack.site()
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()  # an order of now would close the other's cart
    await stack.send(
        site,
        track("Order Completed", 1, who="phone", order_id="o1", revenue=5),
        track("Product Added", 2, who="phone", product_id="a", price=3),
    )
    first = (await state(stack, site, "anonymous_id", "phone", 2))["profile_id"]
    await stack.send(
        site,
        track("Product Added", 3, who="x", user="u1", product_id="b", price=4, quantity=2),
        track("Order Completed", 4, who="x", user="u1", order_id="o2", revenue=7) | {"timestamp": hour_ago},
    )
    other = (await state(stack, site, "user_id", "u1", 2))["profile_id"]
    assert other != first
    await stack.send(site, identify(5, anonymousId="phone", userId="u1"))
    found = await state(stack, site, "user_id", "u1", 5)
    assert found["engagement"]["score"] > 60  # 20 + 30 for two orders, 12 for what is in the carts
    assert found["profile_id"] == first
    assert orders_of(found) == 2
    assert sum(order["value"] for order in found["signals"]["purchase"]["orders"].values()) == 120_000
    assert found["about"]["user_id"] == "u1"
    for id in (("anonymous_id", "phone"), ("profile_id", other)):
        again = await profile(stack, site, *id)
        assert again is not None
        as_of_now = {"engagement": None, "churn": None}
        assert found | as_of_now == again | as_of_now

    (trigger,) = await stack.consume(CARTS, 2, site=site, timeout_s=12)
    assert trigger["subject"] == first
    assert {item["productId"]: item.get("quantity", 1) for item in trigger["data"]["items"]} == {"a": 1, "b": 2}

    (merge,) = await stack.consume(MERGES, 2, site=site, timeout_s=3)
    assert (merge["winner"], merge["loser"], merge["messageId"]) == (first, other, "identify-5")
    assert merge["rule"] == "user_id+anonymous_id"
    redis = Redis.from_url(stack.settings.redis)
    try:
        left = await redis.hgetall(keys.profile_key(partition_of(other.encode(), 8), site.name, other))
        assert left == {b"merged": json.dumps(first).encode()}
        assert await redis.exists(keys.merges_key(site.name)) == 0
        due = await redis.zrange(keys.profiles_tag(partition_of(other.encode(), 8)) + ":due", 0, -1)
        assert f"{site.name}|{other}".encode() not in due
    finally:
        await redis.aclose()


async def test_an_order_that_meets_the_cart_of_another_device_by_a_merge_closes_it(stack: Stack) -> None:
    site = stack.site()
    await stack.send(site, track("Product Added", 1, who="laptop", product_id="a", price=3))
    await stack.send(site, track("Product Viewed", 2, who="x", user="u1"))
    await state(stack, site, "user_id", "u1", 1)
    await stack.send(
        site,
        identify(3, anonymousId="laptop", userId="u1"),
        track("Order Completed", 4, who="x", user="u1", order_id="o1", revenue=3),
        track("Product Added", 5, who="control", product_id="c", price=1),
    )
    found = await stack.consume(CARTS, 2, site=site, timeout_s=10)
    assert [t["data"]["anonymousId"] for t in found] == ["control"]
    assert (await state(stack, site, "user_id", "u1", 4))["signals"]["cart"]["carts"]["carts"][0][
        "state"
    ] == "converted"


async def test_events_that_come_for_a_merged_profile_reach_the_winner_once(stack: Stack) -> None:
    """As from a worker that has not heard of the merge: straight into the loser's partition."""
    from aiokafka import AIOKafkaProducer

    site = stack.site()
    for n, who in enumerate(("a", "b", "c")):
        await stack.send(site, track("Product Viewed", n, who=who))
        await state(stack, site, "anonymous_id", who, 1)
    # b becomes c's, then a's: what is still sent to c goes by b to a, or to a at once.
    await stack.send(site, {"type": "alias", "messageId": "m1", "anonymousId": "b", "previousId": "c"})
    await state(stack, site, "anonymous_id", "b", 3)
    await stack.send(site, {"type": "alias", "messageId": "m2", "anonymousId": "a", "previousId": "b"})
    await state(stack, site, "anonymous_id", "a", 5)
    loser, now_ms = new_profile_id(site.name, "anonymous_id", "c"), time.time_ns() // 1_000_000
    value = json.dumps(
        {
            "profileId": loser, "src": [1000, 1, 0], "site": site.name, "type": "track", "event": "Late",
            "messageId": "late", "timestampMs": now_ms, "receivedAtMs": now_ms,
            "channel": "site", "anonymousId": "c",
        }
    ).encode()  # fmt: skip
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        for _ in range(2):
            await producer.send_and_wait(PROFILE_EVENTS, value, partition=partition_of(loser.encode(), 8))
    found = await state(stack, site, "anonymous_id", "c", 6)
    assert found["profile_id"] == new_profile_id(site.name, "anonymous_id", "a")
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 3, "alias": 2, "Late": 1}))
    await asyncio.sleep(0.5)
    assert (await profile(stack, site, "anonymous_id", "a"))["about"]["events"] == 6


async def test_a_login_finds_the_guest_who_ordered_with_the_same_address(stack: Stack) -> None:
    site = stack.site()
    order = track(
        "Order Completed", 1, who="guest-1", order_id="o1", revenue=5, email=" Lan@Shop.example", phone="0901234567"
    )
    await stack.send(site, order, track("Form Submitted", 2, who="thief", email="lan@shop.example"))
    await state(stack, site, "anonymous_id", "guest-1", 1)
    await stack.send(site, identify(3, anonymousId="desk", userId="u1", traits={"email": "lan@shop.example"}))
    found = await state(stack, site, "user_id", "u1", 2)
    assert orders_of(found) == 1
    for id_type, value in (("email", "LAN@shop.example"), ("phone", "+84%20901%20234%20567"), ("anonymous_id", "desk")):
        assert (await profile(stack, site, id_type, value))["profile_id"] == found["profile_id"]
    thief = await profile(stack, site, "anonymous_id", "thief")
    assert thief["profile_id"] != found["profile_id"]


async def test_a_group_call_makes_the_profile_a_member(stack: Stack) -> None:
    site = stack.site()
    await stack.send(
        site,
        {"type": "group", "messageId": "g1", "userId": "u1", "groupId": "acme", "timestamp": "2026-01-02T03:04:05Z"},
    )
    found = await state(stack, site, "user_id", "u1", 1)
    assert list(found["about"]["groups"]) == ["acme"]


async def test_ids_that_were_taken_off_a_profile_are_somebody_elses_from_then_on(stack: Stack) -> None:
    site = stack.site()
    await stack.send(site, track("Product Viewed", 1, who="desk"), identify(2, anonymousId="desk", userId="u1"))
    await state(stack, site, "user_id", "u1", 2)
    await stack.send(site, identify(3, userId="u1", traits={"email": "u1@shop.example"}))
    found = await state(stack, site, "user_id", "u1", 3)

    async def unmerge(*args: str) -> Any:
        s = stack.settings
        env: dict[str, Any] = {"kafka": s.kafka, "redis": s.redis, "config": stack.config, "partitions": s.partitions}
        return await asyncio.to_thread(cli, "profile", "unmerge", *args, cwd=stack.folder, **env)

    assert_one_line(await unmerge(site.name, "anonymous_id=nobody"), 1, "anonymous_id=nobody", site.name)
    assert_one_line(await unmerge(site.name, "user_id=u1", "email=u1@shop.example", "anonymous_id=desk"), 1, "no other")
    assert (await unmerge(site.name, "email=nonsense")).returncode == 2
    done = await unmerge(site.name, "user_id=u1", "email= U1@Shop.Example")
    assert done.returncode == 0, done
    new = done.stdout.split()[-1].removesuffix("'s")

    async def done_by_worker() -> Any:
        return await owner_of(stack, site, "email", "u1@shop.example") == new

    await eventually(done_by_worker)
    await stack.send(site, track("Product Viewed", 4, who="x", user="u1"), track("Product Viewed", 5, who="desk"))
    of_user = await state(stack, site, "profile_id", new, 1)
    assert of_user["about"]["user_id"] == "u1"
    left = await state(stack, site, "anonymous_id", "desk", 4)
    assert left["profile_id"] == found["profile_id"]
    assert left["about"].get("user_id") is None
    assert await owner_of(stack, site, "user_id", "u1") == new
    (record,) = await stack.consume(MERGES, 1, site=site)
    assert (record["profileId"], record["newProfileId"]) == (found["profile_id"], new)


async def owner_of(stack: Stack, site: Site, id_type: str, value: str) -> Any:
    """The profile that an identifier is of."""
    redis = Redis.from_url(stack.settings.redis, decode_responses=True)
    try:
        return await redis.get(keys.identifier_key(site.name, id_type, value))
    finally:
        await redis.aclose()
