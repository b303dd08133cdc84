"""Journeys that take more than one device, or a message: what domain experts complain about in other trackers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_shop import add_first_product, open_shop, strip, without_popup
from tests.harness import DEMO, Stack
from tracker.contract.triggers import CART_ABANDONED, CART_RECOVERED

pytestmark = [pytest.mark.browser, pytest.mark.integration]

IDLE_S, CLOCK_DELAY_S = 25, 2


async def to_checkout(page: Page, email: str) -> None:
    """From the cart to where the address is known."""
    await page.locator(".cart-link").click()
    await page.locator("#checkout").click()
    for name, value in {"name": "Nguyễn An", "email": email, "address": "1 Tràng Tiền, Hà Nội"}.items():
        await page.fill(f"#{name}", value)
    await page.locator("#continue").click()
    await expect(strip(page, "identify")).to_have_count(1)


async def pay(page: Page) -> None:
    await page.locator("#choose").click()
    await page.locator("#pay").click()
    await expect(strip(page, "Order Completed")).to_have_count(1)


async def test_devices_and_messages_of_one_person(browser: Browser, own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(cart_idle_s=IDLE_S, checkout_idle_s=IDLE_S, payment_idle_s=IDLE_S)
    await asyncio.gather(guest_registers_on_another_device(browser, stack), message_brings_back(browser, stack))


async def guest_registers_on_another_device(browser: Browser, stack: Stack) -> None:
    """A cart is left on the phone by a guest whose address the checkout knows; the order comes from the desktop, where
    the same person registers: nobody reminds of the cart."""
    email = f"guest-{uuid4().hex[:8]}@example.com"
    phone, desktop = [await without_popup(await browser.new_page()) for _ in range(2)]
    await open_shop(desktop, stack)
    await open_shop(phone, stack)
    left_s = time.monotonic()
    await add_first_product(phone)
    await to_checkout(phone, email)
    await phone.close()
    await add_first_product(desktop)
    await to_checkout(desktop, email)
    await pay(desktop)
    assert time.monotonic() - left_s < IDLE_S, "this machine is too slow for an order in time"
    await desktop.close()
    await asyncio.sleep(IDLE_S + CLOCK_DELAY_S + 3)
    assert (
        await stack.consume(CART_ABANDONED.topic, match=lambda t: t["data"].get("userId") == email, timeout_s=5) == []
    )


async def message_brings_back(browser: Browser, stack: Stack) -> None:
    """The reminder is sent, clicked (the provider reports it), and the cart is bought: recovered, by that campaign."""
    email = f"clicks-{uuid4().hex[:8]}@example.com"

    def mine(trigger: dict[str, Any]) -> bool:
        return bool(trigger["data"].get("userId") == email)

    page = await without_popup(await browser.new_page())
    await open_shop(page, stack)
    await add_first_product(page)
    await to_checkout(page, email)
    [abandoned] = await stack.consume(CART_ABANDONED.topic, match=mine, timeout_s=IDLE_S + 60)
    assert abandoned["data"]["stage"] == "checkout"
    click = {
        "type": "track", "event": "Email Link Clicked", "userId": email, "messageId": str(uuid4()),
        "properties": {"campaign_id": "cart-reminder", "link": f"{stack.http}/demo/"},
    }  # fmt: skip
    await stack.send(DEMO, click)
    await page.goto(f"{stack.http}/demo/?utm_source=email&utm_campaign=cart-reminder")
    await expect(page.locator("#live")).to_have_attribute("data-state", "live")
    await page.locator(".cart-link").click()
    await page.locator("#checkout").click()
    await page.fill("#name", "Nguyễn An")
    await page.fill("#email", email)
    await page.fill("#address", "1 Tràng Tiền, Hà Nội")
    await page.locator("#continue").click()
    await pay(page)
    [recovered] = await stack.consume(CART_RECOVERED.topic, match=mine, timeout_s=60)
    await page.close()
    data = recovered["data"]
    assert data["by"] == "cart-reminder"
    assert data["abandonedAtMs"] == abandoned["data"]["abandonedAtMs"]
    assert data["revenue"] > 0
