"""`tracker profile show|why` and the profile API's `explain`: the same explanation, of real states."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.harness import Site, Stack, assert_one_line, cli, eventually
from tracker.contract.triggers import rfc3339

pytestmark = pytest.mark.integration


def run(stack: Stack, *args: str) -> Any:
    chosen: dict[str, Any] = {
        "redis": stack.settings.redis,
        "config": stack.config,
        "partitions": stack.settings.partitions,
    }
    same = ("cart_idle_s", "checkout_idle_s", "payment_idle_s", "demo")
    return cli("profile", *args, **chosen, **{name: getattr(stack.settings, name) for name in same})


@pytest.fixture(scope="module")
async def shopper(stack: Stack) -> Site:
    """A site where u-1 has a cart in the future, so that its timers stay ahead while the tests run."""
    site = stack.site()
    added = {
        "type": "track", "event": "Product Added", "userId": "u-1", "anonymousId": "a-1",
        "properties": {"product_id": "A\x1b[31m", "price": 10, "quantity": 2, "currency": "USD"},
    }  # fmt: skip
    identified = {"type": "identify", "userId": "u-1", "traits": {"email": "Lan@Example.com", "name": "Lan"}}
    await stack.send(site, identified, added)

    async def there() -> bool:
        status, answer = await ask(stack, site)
        return status == 200 and {"cart", "contact", "score"} <= answer["signals"].keys()

    await eventually(there)
    return site


async def ask(stack: Stack, site: Site, query: str = "") -> tuple[int, Any]:
    path = f"/api/v1/sites/{site.name}/profiles/user_id/u-1{query}"
    return await stack.request("GET", path, bearer=site.secret_key)


async def test_the_api_and_the_command_explain_alike_and_give_no_key_away(stack: Stack, shopper: Site) -> None:
    async def abandoned() -> bool:
        return bool((await ask(stack, shopper, "?explain=1"))[1]["explained"]["cart"]["state"]["state"] == "ABANDONED")

    await eventually(abandoned)
    _, answer = await ask(stack, shopper, "?explain=1")
    done = await asyncio.to_thread(run, stack, "show", shopper.name, "lan@example.com", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    cart = answer["explained"]["cart"]
    assert shown["explained"]["cart"] == cart
    assert shown["about"] == answer["about"]
    assert shown["signals"] == answer["signals"]
    assert shown["explained"].keys() == answer["explained"].keys()
    assert (cart["state"]["value"], cart["state"]["currency"]) == (20, "USD")
    assert [t["kind"] for t in cart["told"]] == ["cart_abandoned"]
    assert cart["next"][-1] == {"time": cart["due"], "what": "cart.lost"}
    assert cart["due"] > rfc3339(time.time_ns() // 1_000_000)
    assert "Order Completed" in cart["inputs"]["events"]
    assert cart["inputs"]["settings"]["cart_idle_s"] == 5
    (channel,) = answer["explained"]["contact"]["state"]["channels"]
    assert (channel["channel"], channel["address"], channel["usable"]) == ("email", "lan@example.com", True)
    assert answer["explained"]["gate"]["state"]["told"][0]["id"] == cart["told"][0]["id"]
    for key in (shopper.write_key, shopper.secret_key):
        assert key not in json.dumps(answer)
        assert key not in done.stdout
    assert "explained" not in (await ask(stack, shopper))[1]
    status, refused = await ask(stack, shopper, "?explain=maybe")
    assert (status, refused["code"]) == (400, "bad_explain")


def test_show_is_one_line_a_signal_and_why_says_all_of_one(stack: Stack, shopper: Site) -> None:
    shown = run(stack, "show", shopper.name, "u-1")
    assert shown.returncode == 0, shown.stderr
    assert "user u-1, anonymous a-1" in shown.stdout
    assert "\ncart " in shown.stdout
    assert "\nscore " in shown.stdout
    why = run(stack, "why", shopper.name, "a-1", "--id-type", "anonymous_id", "--signal", "cart")
    assert why.returncode == 0, why.stderr
    for part in ("state: ", "next, when nothing comes before", "it changes with", "Order Completed", "cart_idle_s 5"):
        assert part in why.stdout
    assert "\x1b" not in shown.stdout + why.stdout
    alone = json.loads(run(stack, "why", shopper.name, "u-1", "--signal", "score", "--json").stdout)
    assert alone["signals"]["score"]["state"]["indicators"]["cart"]["events"] == 1


def test_what_a_user_can_do_wrong_is_one_line(stack: Stack, shopper: Site) -> None:
    assert_one_line(run(stack, "show", "nowhere", "u-1"), 2, "no site 'nowhere'", shopper.name)
    assert_one_line(run(stack, "show", shopper.name, "u-2"), 1, "no profile", "u-2")
    assert_one_line(run(stack, "why", shopper.name, "u-1", "--signal", "moon"), 2, "no signal 'moon'", "cart")
    assert_one_line(run(stack, "why", shopper.name, "u-1", "--signal", "churn"), 1, "nothing that churn reads", "cart")
    away = run(stack, "show", shopper.name, "u-1", "--redis", "redis://:geheim@127.0.0.1:1/0")
    assert_one_line(away, 1, "Redis does not answer at 127.0.0.1:1", "tracker doctor")
    assert "geheim" not in away.stderr
