"""The stream through the real stack: counters, identity, repeats, poison, crash, rebalance."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from tests.harness import Site, Stack, eventually
from tracker.contract.codec import partition_of
from tracker.contract.events import profile_prefix, with_profile
from tracker.contract.keys import profiles_tag
from tracker.contract.topics import DEAD_LETTERS, EVENTS, PROFILE_EVENTS

pytestmark = pytest.mark.integration
CARTS = "tracker.triggers.cart_abandoned.v1"


def track(event: str, n: int, *, who: str, user: str | None = None, **properties: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "track", "event": event, "messageId": f"{who}-{n}", "properties": properties}
    return message | ({"userId": user} if user else {"anonymousId": who})


async def counters(stack: Stack, site: Site, by: str = "event") -> dict[str, int]:
    status, answer = await stack.request(
        "GET", f"/api/v1/sites/{site.name}/counters?by={by}&window=24h", bearer=site.secret_key
    )
    assert status == 200, answer
    return {group["key"]: group["count"] for group in answer["groups"]}


async def profile(stack: Stack, site: Site, id_type: str, value: str) -> Any:
    status, answer = await stack.request(
        "GET", f"/api/v1/sites/{site.name}/profiles/{id_type}/{value}", bearer=site.secret_key
    )
    return answer if status == 200 else None


def worker_metric(stack: Stack, name: str) -> float:
    with urllib.request.urlopen(stack.worker_http + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_events_are_counted_by_name_and_channel_and_the_answer_says_up_to_when(stack: Stack) -> None:
    site = stack.site()
    await stack.send(
        site,
        track("Product Viewed", 1, who="a1"),
        track("Product Viewed", 2, who="a2"),
        track("Popup Viewed", 3, who="a1", popup_id="welcome"),
        {"type": "page", "messageId": "p1", "anonymousId": "a1"},
    )
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 2, "Popup Viewed": 1, "page": 1}))
    assert await counters(stack, site, "channel") == {"site": 3, "popup": 1}
    sent = time.time()

    async def complete() -> bool:
        path = f"/api/v1/sites/{site.name}/counters?by=event&window=1m"
        _, answer = await stack.request("GET", path, bearer=site.secret_key)
        until = answer["complete_until"]
        return bool(until) and until > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(sent - 1))

    await eventually(complete)


async def equals(got: Any, wanted: Any) -> bool:
    value = await got
    assert value == wanted, value
    return True


async def test_a_message_id_that_comes_again_counts_once(stack: Stack) -> None:
    site = stack.site()
    for _ in range(3):
        await stack.send(site, track("Product Viewed", 1, who="a1"))
    await stack.send(site, track("Product Viewed", 1, who="a1"), track("Product Viewed", 1, who="a1"))
    await stack.send(site, track("Last", 2, who="a1"))
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 1, "Last": 1}))


async def test_the_same_message_id_on_two_sites_is_two_events(stack: Stack) -> None:
    one, other = stack.site(), stack.site()
    for site in (one, other):
        await stack.send(site, track("Product Viewed", 1, who="a1"))
    await eventually(lambda: equals(counters(stack, one), {"Product Viewed": 1}))
    await eventually(lambda: equals(counters(stack, other), {"Product Viewed": 1}))


async def test_identify_makes_the_anonymous_profile_the_users(stack: Stack) -> None:
    site = stack.site()
    await stack.send(site, track("Product Viewed", 1, who="anon-1"))
    await stack.send(
        site,
        {"type": "identify", "messageId": "i1", "anonymousId": "anon-1", "userId": "u-1", "traits": {"name": "An"}},
    )

    async def linked() -> Any:
        return await profile(stack, site, "user_id", "u-1")

    found = await eventually(linked)
    await stack.send(site, track("Order Completed", 2, who="x", user="u-1", order_id="o1", revenue=5))

    async def three_events() -> bool:
        by_user, by_anonymous = (
            await profile(stack, site, "user_id", "u-1"),
            await profile(stack, site, "anonymous_id", "anon-1"),
        )
        assert by_user["profile_id"] == by_anonymous["profile_id"] == found["profile_id"]
        assert by_user["about"]["events"] == 3
        assert by_user["about"]["traits"] == {"name": "An"}
        return True

    await eventually(three_events)


async def test_a_second_user_on_the_same_device_has_a_profile_of_their_own(stack: Stack) -> None:
    site = stack.site()
    for user in ("u-1", "u-2"):
        await stack.send(
            site, {"type": "identify", "messageId": f"i-{user}", "anonymousId": "kiosk", "userId": user, "traits": {}}
        )

    async def both() -> bool:
        first, second = await profile(stack, site, "user_id", "u-1"), await profile(stack, site, "user_id", "u-2")
        assert first
        assert second
        assert first["profile_id"] != second["profile_id"]
        return True

    await eventually(both)


async def test_an_unknown_profile_is_a_clear_404_and_a_write_key_a_403(stack: Stack) -> None:
    site = stack.site()
    path = f"/api/v1/sites/{site.name}/profiles/user_id/nobody"
    status, answer = await stack.request("GET", path, bearer=site.secret_key)
    assert (status, answer["code"]) == (404, "unknown_profile")
    status, answer = await stack.request("GET", path, bearer=site.write_key)
    assert status == 403


async def test_a_left_cart_gives_one_trigger_and_a_bought_one_none(stack: Stack) -> None:
    site = stack.site()
    item: dict[str, Any] = {"product_id": "p1", "name": "Cà phê", "price": 45000, "quantity": 2, "currency": "VND"}
    await stack.send(
        site, track("Product Added", 1, who="leaves", **item), track("Product Added", 1, who="buys", **item)
    )
    await stack.send(site, track("Order Completed", 2, who="buys", order_id="o1", revenue=90000, products=[item]))
    (trigger,) = await stack.consume(CARTS, 1, site=site)
    assert trigger["data"]["anonymousId"] == "leaves"
    assert trigger["data"]["value"] == 90000
    assert trigger["data"]["items"][0]["productId"] == "p1"
    assert trigger["specversion"] == "1.0"
    assert len(await stack.consume(CARTS, 2, site=site, timeout_s=6)) == 1


async def test_poison_goes_to_the_dead_letters_and_the_partition_goes_on(stack: Stack) -> None:
    site = stack.site()
    partition = partition_of(b"after", stack.settings.partitions)
    good = {
        "site": site.name, "type": "page", "messageId": "after-1", "timestampMs": int(time.time() * 1000),
        "receivedAtMs": int(time.time() * 1000), "channel": "site", "anonymousId": "after",
    }  # fmt: skip
    nobody = good | {"messageId": "nobody-1", "anonymousId": "null"}
    mark = f"not json of {site.name}".encode()
    spliced = with_profile(json.dumps(good).encode(), profile_prefix(b"p", 0), 0, 0).replace(b'"src"', b'"scr"')
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        await producer.send_and_wait(EVENTS, mark, partition=partition)
        await producer.send_and_wait(EVENTS, json.dumps(nobody).encode(), partition=partition)
        await producer.send_and_wait(PROFILE_EVENTS, spliced, partition=0)
        await producer.send_and_wait(EVENTS, json.dumps(good).encode(), key=b"after", partition=partition)
    await eventually(lambda: equals(counters(stack, site), {"page": 1}))

    def ours(letter: dict[str, Any]) -> bool:
        import base64

        return site.name.encode() in base64.b64decode(letter.get("original", ""))

    letters = await stack.consume(DEAD_LETTERS, 3, match=ours)
    assert Counter((x["stage"], x["reason"]) for x in letters) == {
        ("resolve", "not_an_event"): 1, ("resolve", "no_identity"): 1, ("signals", "not_an_event"): 1,
    }  # fmt: skip


class Traffic:
    """Shoppers through the endpoint; keeps what was acked, so that a separate fold can say what must be in Redis."""

    def __init__(self, stack: Stack, site: Site) -> None:
        self.stack, self.site = stack, site
        self.acked: list[dict[str, Any]] = []

    async def send(self, visitors: range, per_visitor: int) -> None:
        """Visitors add to a cart; every third buys it in the same request. The rest are page views and the like."""
        batch: list[dict[str, Any]] = []
        for v in visitors:
            who = f"v{v}"
            messages = [track("Product Added", 0, who=who, product_id="p1", price=10, quantity=1)]
            messages += [
                track(("Product Viewed", "Popup Viewed")[n % 2], n, who=who) for n in range(1, per_visitor - 1)
            ]
            last = "Order Completed" if v % 3 == 0 else "Product Viewed"
            messages.append(track(last, per_visitor, who=who, order_id=f"o{v}", revenue=10))
            batch += messages
            if len(batch) >= 500 or v == visitors[-1]:
                await self.stack.send(self.site, *batch)
                self.acked += batch
                batch = []

    def by_event(self) -> dict[str, int]:
        distinct = {m["messageId"]: m["event"] for m in self.acked}
        return dict(Counter(distinct.values()))

    def left_carts(self) -> int:
        buyers = {m["anonymousId"] for m in self.acked if m["event"] == "Order Completed"}
        return len({m["anonymousId"] for m in self.acked} - buyers)


async def tiers(stack: Stack, site: Site) -> dict[str, dict[str, int]]:
    """tier -> event -> count, summed over partitions and buckets straight from Redis."""
    sums: dict[str, dict[str, int]] = {tier: {} for tier in "mhd"}
    async with Redis.from_url(stack.settings.redis, decode_responses=True) as redis:
        for tier in sums:
            async for key in redis.scan_iter(f"{{p*}}:c:{site.name}:site:{tier}:*", count=1000):
                for field, n in (await redis.hgetall(key)).items():
                    kind, _, name = str(field).partition("|")
                    if kind == "event":
                        sums[tier][name] = sums[tier].get(name, 0) + int(n)
    return sums


async def counted_exactly(stack: Stack, traffic: Traffic, timeout_s: float = 60) -> None:
    wanted = traffic.by_event()

    async def same() -> bool:
        got = await tiers(stack, traffic.site)
        assert got["h"] == wanted, (got["h"], wanted)
        return True

    await eventually(same, timeout_s, every_s=1.0)
    await asyncio.sleep(2)  # Too much would come late.
    assert await tiers(stack, traffic.site) == dict.fromkeys("mhd", wanted)


async def test_kill_9_amid_50000_events_loses_and_doubles_nothing(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(cart_idle_s=20, checkout_idle_s=20, payment_idle_s=20, partitions=16)
    site = stack.site()
    traffic = Traffic(stack, site)
    await traffic.send(range(1000), 25)
    sending = asyncio.create_task(traffic.send(range(1000, 2000), 25))

    def under_way() -> bool:
        return worker_metric(stack, 'stream_events_total{hop="signals"}') > 5_000

    await eventually(under_way, 60, every_s=0.05)
    stack.worker.kill()
    assert [*stack.temporary.iterdir(), *stack.folder.glob("*-data")] == []  # nor does it leave a folder of Faust's
    await sending
    stack.worker.start()
    stack.await_ready()
    assert len(traffic.acked) == 50_000
    await counted_exactly(stack, traffic)

    found = await stack.consume(CARTS, 10_000, site=site, timeout_s=35)
    ids = Counter(trigger["id"] for trigger in found)
    assert len(ids) == traffic.left_carts()
    assert len({trigger["subject"] for trigger in found}) == traffic.left_carts()
    async with Redis.from_url(stack.settings.redis) as redis:
        for p in range(stack.settings.partitions):
            assert await redis.llen(f"{profiles_tag(p)}:out") == 0


async def test_workers_that_come_and_go_change_no_count(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(partitions=16)
    traffic = Traffic(stack, stack.site())
    sending = asyncio.create_task(traffic.send(range(800), 25))
    second = await asyncio.to_thread(stack.add_worker, "second")
    await traffic.send(range(1000, 1200), 25)
    second.stop()
    third = await asyncio.to_thread(stack.add_worker, "third")
    await traffic.send(range(2000, 2200), 25)
    third.kill()
    await sending
    await counted_exactly(stack, traffic, 90)


async def test_redis_that_is_away_and_comes_back_changes_no_count(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(partitions=8, cut_off_s=5, session_timeout_s=6)
    traffic = Traffic(stack, stack.site())
    await traffic.send(range(200), 25)
    sending = asyncio.create_task(traffic.send(range(1000, 1400), 25))
    await asyncio.to_thread(stack.servers.children["redis"].stop)
    await eventually(lambda: "leaving the group" in stack.worker.log.read_text("utf-8"))
    await asyncio.sleep(6)  # until the group has lost its last member
    stack.servers.children["redis"].start()
    await eventually(lambda: "joining the group" in stack.worker.log.read_text("utf-8"))
    await sending
    await counted_exactly(stack, traffic)
