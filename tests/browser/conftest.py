"""A real Chromium, and a small endpoint (Sink) that records what the snippet sends and answers as told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

STATIC = Path(__file__).parents[2] / "tracker" / "static"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        message = "no Chromium: apt-get install chromium, or set CHROMIUM to its path"
        pytest.fail(message) if os.environ.get("REQUIRE_INTEGRATION") == "1" else pytest.skip(message)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh visitor: no cookies, no storage."""
    context = await browser.new_context(locale="vi-VN", timezone_id="Asia/Ho_Chi_Minh")
    context.set_default_timeout(10_000)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page on which every JavaScript error fails the test."""
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []


class Sink:
    """Serves a page with the pasted snippet, and records every POST."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        """path, headers (lower-case names), body (decoded), status that was answered."""
        self.answer: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})
        self.head = ""
        """HTML after the stub, before the script."""
        self.script = '<script async src="/t.js" data-write-key="k-123456"></script>'
        self.script_status = 200

    def events(self, status: int = 200) -> list[dict[str, Any]]:
        """The events of all requests that were answered with `status`."""
        return [event for r in self.requests if r["status"] == status for event in r["body"]["batch"]]

    async def get_page(self, request: web.Request) -> web.Response:
        stub = (STATIC / "stub.js").read_text()
        html = f"<!doctype html><title>Tiệm</title><script>{stub}</script>{self.head}{self.script}"
        return web.Response(text=html, content_type="text/html")

    async def get_script(self, request: web.Request) -> web.Response:
        return web.Response(
            text=(STATIC / "t.js").read_text(), content_type="text/javascript", status=self.script_status
        )

    async def post(self, request: web.Request) -> web.Response:
        status, headers = self.answer()
        raw = await request.read()
        self.requests.append(
            {
                "path": request.path,
                "headers": {k.lower(): v for k, v in request.headers.items()},
                "body": json.loads(raw),
                "bytes": len(raw),
                "status": status,
            }
        )
        return web.json_response(
            {"success": status == 200},
            status=status,
            headers={
                "Access-Control-Allow-Origin": "*",
                "Access-Control-Expose-Headers": "Retry-After",
                **headers,
            },
        )


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink()
    app = web.Application(client_max_size=1 << 20)
    app.add_routes(
        [
            web.get("/t.js", sink.get_script),
            web.get("/favicon.ico", _empty),
            web.get("/{path:.*}", sink.get_page),
            web.post("/{path:.*}", sink.post),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield sink
    await runner.cleanup()


async def _empty(_: web.Request) -> web.Response:
    return web.Response(status=204)
