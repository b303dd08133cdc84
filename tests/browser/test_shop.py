"""A visitor's way through the demo shop on the real stack: browser -> endpoint -> Kafka -> worker -> page."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.harness import DEMO, Stack
from tracker.contract.topics import EVENTS
from tracker.contract.triggers import CART_ABANDONED

pytestmark = [pytest.mark.browser, pytest.mark.integration]

IDLE_S, CLOCK_DELAY_S = 5, 2
"""Of the stack's demo site."""


async def open_shop(page: Page, stack: Stack, query: str = "") -> str:
    """Opens the shop and waits for its stream. Returns the visitor's anonymousId."""
    await page.goto(f"{stack.http}/demo/{query}")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=15_000)
    return str(await page.evaluate("tracker.user().anonymousId()"))


async def without_popup(page: Page) -> Page:
    """Somebody who closes the shop's popup whenever it comes: on a slow machine it does."""
    await page.add_locator_handler(page.locator("dialog.popup"), lambda popup: popup.locator(".popup-close").click())
    return page


def strip(page: Page, name: str) -> Any:
    return page.locator(".events .event-name").filter(has_text=re.compile(f"^{re.escape(name)}$"))


async def add_first_product(page: Page) -> None:
    await page.locator(".card h3 a").first.click()
    await page.locator("#add").click()


async def test_a_cart_left_alone_shows_its_trigger_and_kafka_has_it_once(page: Page, stack: Stack) -> None:
    me = await open_shop(page, stack, "?utm_source=zalo")
    await add_first_product(page)
    await expect(strip(page, "Product Added")).to_have_count(1)
    await expect(page.locator(".signal .wait")).to_be_visible()
    await expect(page.locator(".signal .alarm")).to_be_visible(timeout=20_000)
    await expect(page.locator(".signal .alarm")).to_contain_text("Arabica Cầu Đất")
    await expect(page.locator(".signal .alarm")).to_contain_text("185.000")
    await expect(page.locator(".counts li").first).to_be_visible()
    assert await page.locator("dialog").count() == 0
    await page.locator(".signal summary").click()
    assert await page.locator("#live").evaluate("panel => panel.scrollWidth - panel.clientWidth") == 0
    triggers = await stack.consume(CART_ABANDONED.topic, 2, match=lambda t: of_visitor(t, me), timeout_s=8)
    assert len({t["id"] for t in triggers}) == 1
    [line] = triggers[0]["data"]["items"]
    assert (line["productId"], line["quantity"], line["price"]) == ("ca-phe-cau-dat", 1, 185000)


def of_visitor(trigger: dict[str, Any], anonymous_id: str) -> bool:
    return bool(trigger["data"].get("anonymousId") == anonymous_id)


async def buy(page: Page, stack: Stack) -> tuple[str, float]:
    """From an empty cart to the order. Returns the visitor's anonymousId and the seconds it took."""
    me = await open_shop(page, stack)
    started_s = time.monotonic()
    await add_first_product(page)
    await page.locator(".cart-link").click()
    await page.locator("#checkout").click()
    await page.locator("#continue").click()  # nothing filled in: the form says so, and nothing is sent
    await expect(page.locator("#email-note")).not_to_be_empty()
    for name, value in {
        "name": "Nguyễn An",
        "email": f"an.{me}@example.com",
        "address": "1 Tràng Tiền, Hà Nội",
    }.items():
        await page.fill(f"#{name}", value)
    await page.locator("#continue").click()
    await page.locator("#choose").click()
    await page.locator("#pay").click()
    await expect(strip(page, "Order Completed")).to_have_count(1)
    return me, time.monotonic() - started_s


async def test_buying_in_time_gives_no_trigger_and_the_order_has_segments_properties(
    page: Page, browser: Browser, stack: Stack
) -> None:
    me, took_s = await buy(page, stack)
    for _ in range(6):
        if took_s < IDLE_S:
            break
        page = await browser.new_page()  # the machine was too busy: another visitor
        me, took_s = await buy(page, stack)
    assert took_s < IDLE_S, "this machine is too slow for an order in time"
    await expect(page.locator(".signal .good")).to_be_visible()
    await asyncio.sleep(IDLE_S + CLOCK_DELAY_S + 2)
    await expect(page.locator(".signal .alarm")).to_have_count(0)
    assert await stack.consume(CART_ABANDONED.topic, match=lambda t: of_visitor(t, me), timeout_s=8) == []

    events = await stack.consume(EVENTS, 18, match=lambda e: e.get("anonymousId") == me)
    assert len(events) == 18
    names = [e.get("event") or e["type"] for e in sorted(events, key=lambda e: e["timestampMs"])]
    funnel = ["Product Added", "Cart Viewed", "Checkout Started", "identify", "Payment Info Entered", "Order Completed"]
    assert [name for name in names if name in funnel] == funnel
    order = next(e for e in events if e.get("event") == "Order Completed")
    assert order["userId"] == f"an.{me}@example.com"
    facts = order["properties"]
    assert (facts["currency"], facts["subtotal"], facts["shipping"], facts["total"]) == ("VND", 185000, 30000, 215000)
    [product] = facts["products"]
    assert product["url"] == f"{stack.http}/demo/?p=ca-phe-cau-dat"
    assert product["image_url"] == f"{stack.http}/demo/img/ca-phe-cau-dat.svg"
    started = next(e for e in events if e.get("event") == "Checkout Started")["properties"]
    assert started["order_id"] == facts["order_id"]
    assert started["checkout_id"] == facts["checkout_id"]


async def test_what_was_clicked_just_before_leaving_still_arrives(page: Page, stack: Stack) -> None:
    me = await open_shop(page, stack)
    elsewhere = f"http://localhost:{stack.settings.http_port}/livez"  # another site than 127.0.0.1
    # Not within the call: it would wait for an answer from a page that is gone.
    leave = "url => { setTimeout(() => { tracker.track('Leaving', {n: 1}); location.href = url }) }"
    await page.evaluate(leave, elsewhere)
    await page.wait_for_url(elsewhere)
    found = await stack.consume(EVENTS, match=lambda e: e.get("anonymousId") == me and e.get("event") == "Leaving")
    assert len(found) == 1


async def test_hostile_names_are_shown_as_text(page: Page, stack: Stack) -> None:
    me = await open_shop(page, stack)
    name = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    message = {"type": "track", "event": name, "anonymousId": me, "messageId": str(uuid4())}
    await stack.send(DEMO, message)
    await expect(strip(page, name)).to_have_count(1)
    assert await page.evaluate("window.hit") is None


async def test_the_popup_does_not_ask_on_arrival_but_when_all_three_conditions_are_met(
    page: Page, stack: Stack
) -> None:
    async def sooner(route: Route) -> None:
        response = await route.fetch()
        body = (await response.text()).replace('data-popup-seconds="30"', 'data-popup-seconds="3"')
        await route.fulfill(response=response, body=body)

    await page.route(re.compile(r"/demo/(\?.*)?$"), sooner)
    me = await open_shop(page, stack)
    popup = page.locator("dialog.popup")
    await asyncio.sleep(4.5)
    await expect(popup).to_have_count(0)  # time alone
    await page.locator(".card h3 a").first.evaluate("link => link.click()")  # Playwright's click would scroll to it
    await asyncio.sleep(1.5)
    await expect(popup).to_have_count(0)  # time and pages
    await page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    await expect(popup).to_be_visible()
    await page.fill("#popup-email", f"{me}@example.com")
    await page.locator("dialog .button").click()
    await expect(popup).to_have_count(0)
    await expect(strip(page, "Popup Submitted")).to_have_count(1)
    await expect(strip(page, "Popup Viewed")).to_have_count(1)
    await expect(strip(page, "Popup Dismissed")).to_have_count(0)
    await page.reload()
    await asyncio.sleep(1.5)
    await expect(popup).to_have_count(0)


async def test_by_default_the_popup_waits_for_thirty_seconds_two_pages_and_half_a_scroll(
    page: Page, stack: Stack
) -> None:
    await page.goto(f"{stack.http}/demo/")
    gate = await page.evaluate("({...document.body.dataset})")
    assert gate == {"popupSeconds": "30", "popupPages": "2", "popupScroll": "50"}


async def test_the_language_follows_the_browser_and_the_switch(
    page: Page, context: BrowserContext, stack: Stack
) -> None:
    await page.goto(f"{stack.http}/demo/?p=tra-sen-tay-ho")
    await expect(page.locator("h1")).to_have_text("Trà sen Tây Hồ")
    await page.locator('.tongues [lang="en"]').click()
    await expect(page.locator("h1")).to_have_text("West Lake lotus tea")
    await expect(page.locator(".live-title")).to_have_text("Live")
    assert await page.evaluate("document.documentElement.lang") == "en"
    await page.reload()
    await expect(page.locator("h1")).to_have_text("West Lake lotus tea")


async def test_on_a_phone_the_strip_is_a_sheet_that_opens_and_the_page_does_not_scroll_sideways(
    page: Page, stack: Stack
) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    await open_shop(page, stack)
    await expect(page.locator(".live-body")).to_be_hidden()
    await page.locator(".handle").click()
    await expect(page.locator(".live-body")).to_be_visible()
    assert await page.locator(".handle").get_attribute("aria-expanded") == "true"
    for query in ("", "?p=phin-nhom", "?view=cart"):
        await page.goto(f"{stack.http}/demo/{query}")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(wide) <= 0, query


async def test_the_shop_has_the_snippet_that_the_build_gives(stack: Stack) -> None:
    from .conftest import STATIC

    stub = (STATIC / "stub.js").read_text().strip()
    assert f"<script>{stub}</script>" in (STATIC / "demo" / "index.html").read_text()
    status, served = await stack.request("GET", "/demo/")
    assert status == 200
    assert stub in served
    assert served.count("<script>") == 1
