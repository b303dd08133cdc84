"""The whole path over the shared stack, seen from outside: HTTP in, trigger out."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.harness import Site, Stack, eventually
from tracker.contract.triggers import CART_ABANDONED

pytestmark = pytest.mark.integration

SHIRT = {"product_id": "ao", "name": "Áo", "price": 189000, "quantity": 2, "currency": "VND"}


def track(who: str, event: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "track", "anonymousId": who, "event": event, "messageId": str(uuid.uuid4()), "properties": properties
    }  # fmt: skip


async def triggers(stack: Stack, site: Site, count: int, timeout_s: float) -> list[dict[str, Any]]:
    return await stack.consume(CART_ABANDONED.topic, count, site=site, timeout_s=timeout_s)


async def test_a_cart_left_alone_gives_one_trigger_and_a_bought_one_gives_none(stack: Stack) -> None:
    """Both shoppers act at the same time: when the trigger of the one is there, the other's would be too."""
    site = stack.site()
    left, buyer = f"left-{uuid.uuid4()}", f"buyer-{uuid.uuid4()}"
    await stack.send(site, track(buyer, "Product Added", SHIRT), track(left, "Product Added", SHIRT))
    await stack.send(
        site, track(buyer, "Order Completed", {"order_id": f"o-{buyer}", "total": 378000, "products": [SHIRT]})
    )
    assert len(await triggers(stack, site, 1, 30)) == 1
    await asyncio.sleep(stack.settings.cart_idle_s)
    found = await triggers(stack, site, 5, 3)
    assert len({trigger["id"] for trigger in found}) == 1
    data = found[0]["data"]
    assert (data["anonymousId"], data["stage"], data["value"]) == (left, "cart", 378000)
    assert found[0]["type"] == "tracker.cart_abandoned.v1"


async def test_counters_are_readable_with_the_secret_key_alone(stack: Stack) -> None:
    site = stack.site()
    await stack.send(site, *(track(f"v{i}", "Product Viewed", SHIRT) for i in range(25)))
    path = f"/api/v1/sites/{site.name}/counters?by=event&window=1h"

    async def counted() -> bool:
        status, answer = await stack.request("GET", path, bearer=site.secret_key)
        assert status == 200, answer
        return {"key": "Product Viewed", "count": 25} in answer["groups"]

    await eventually(counted)
    assert (await stack.request("GET", path, bearer=site.write_key))[0] == 403
