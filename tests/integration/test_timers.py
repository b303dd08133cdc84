"""Timers outlive the worker: what was due while it was down fires once it is back, and once only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Stack, await_kafka, eventually
from tests.integration.test_worker import CARTS, counters, equals, track
from tests.oracle.state import log_of

pytestmark = pytest.mark.integration
IDLE_S = 9.0
CARTS_LEFT = 40


async def test_carts_due_while_the_worker_was_down_fire_once_and_those_bought_meanwhile_never(
    own_stack: Callable[..., Stack],
) -> None:
    stack = own_stack(cart_idle_s=IDLE_S, checkout_idle_s=IDLE_S, payment_idle_s=IDLE_S)
    site = stack.site()
    item: dict[str, Any] = {"product_id": "p1", "price": 10, "quantity": 1}
    leave = {f"leaves{n}" for n in range(CARTS_LEFT)}
    buy = {f"buys{n}" for n in range(CARTS_LEFT)}
    await stack.send(site, *(track("Product Added", 1, who=who, **item) for who in sorted(leave | buy)))
    added_s = time.monotonic()
    await eventually(lambda: equals(counters(stack, site), {"Product Added": 2 * CARTS_LEFT}))
    stack.worker.kill()
    await stack.send(site, *(track("Order Completed", 2, who=who, order_id=who, revenue=10) for who in sorted(buy)))
    assert time.monotonic() - added_s < IDLE_S, "too slow: the carts were due before they were bought"
    await asyncio.sleep(IDLE_S + 1)  # all were due by now, had there been no purchases
    assert await log_of(stack.settings.kafka, CARTS, 1) == {0: []}

    stack.worker.start()
    stack.await_ready()
    told = await stack.consume(CARTS, CARTS_LEFT, site=site)
    assert {trigger["data"]["anonymousId"] for trigger in told} == leave

    stack.worker.stop()
    stack.worker.start()
    stack.await_ready()
    await eventually(
        lambda: equals(counters(stack, site), {"Product Added": 2 * CARTS_LEFT, "Order Completed": CARTS_LEFT})
    )
    await asyncio.sleep(3)  # clock records come and find nothing
    assert len((await log_of(stack.settings.kafka, CARTS, 1))[0]) == CARTS_LEFT


async def test_a_cart_that_was_paid_while_kafka_was_away_is_not_abandoned_however_long_the_spool_takes(
    own_stack: Callable[..., Stack],
) -> None:
    idle_s = 10.0
    stack = own_stack(
        cart_idle_s=idle_s, checkout_idle_s=idle_s, payment_idle_s=idle_s, spool_after_s=1.0, spool_replay_per_s=25
    )
    site = stack.site()
    item: dict[str, Any] = {"product_id": "p1", "price": 10, "quantity": 1}
    await stack.send(site, *(track("Product Added", 1, who=who, **item) for who in ("buys", "leaves")))
    added_s = time.monotonic()
    await eventually(lambda: equals(counters(stack, site), {"Product Added": 2}))
    kafka = stack.servers.children["kafka"]
    await asyncio.to_thread(kafka.kill)
    try:
        for n in range(12):  # what is in front of the order takes some seconds to be sent
            await stack.send(site, *(track("Viewed", 100 + 10 * n + i, who=f"w{n}.{i}") for i in range(10)))
        await stack.send(site, track("Order Completed", 2, who="buys", order_id="o1", revenue=10))
        assert time.monotonic() - added_s < idle_s, "too slow: the cart was due before it was bought"
        await asyncio.sleep(idle_s + 1)
    finally:
        kafka.start()
        await asyncio.to_thread(await_kafka, kafka, stack.settings.kafka)
    (told,) = await stack.consume(CARTS, 1, site=site, timeout_s=60)
    assert told["data"]["anonymousId"] == "leaves"
    await eventually(lambda: equals(counters(stack, site), {"Product Added": 2, "Viewed": 120, "Order Completed": 1}))
    await asyncio.sleep(3)
    assert len(await stack.consume(CARTS, 2, site=site, timeout_s=2)) == 1
