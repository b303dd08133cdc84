"""Timers outlive the worker: what was due while it was down fires once it is back, and once only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Stack, eventually
from tests.integration.test_worker import CARTS, counters, equals, track
from tests.oracle.state import log_of

pytestmark = pytest.mark.integration
IDLE_S = 6.0
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
