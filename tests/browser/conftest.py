"""A real Chromium, a small endpoint that records what the snippet sends and answers as told (Sink), and what of the
real endpoint's events has come to Kafka (Log)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import ClientSession, web
from aiokafka import AIOKafkaConsumer, TopicPartition
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.conftest import missing
from tests.harness import Stack
from tracker.cli import topics
from tracker.contract.topics import EVENTS

STATIC = Path(__file__).parents[2] / "tracker" / "static"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP *.vn 127.0.0.1, MAP *.test 127.0.0.1",
]  # fmt: skip

expect.set_options(timeout=30_000)  # the machine may be busy with other tests


def need_browser(path: str | None, message: str) -> None:
    """Without it a test is skipped, but not in CI."""
    if path is None:
        missing(message)


def need_chromium() -> None:
    need_browser(CHROMIUM, "no Chromium: apt-get install chromium, or set CHROMIUM to its path")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    need_chromium()
    async with async_playwright() as playwright:
        # Playwright turns the back/forward cache off.
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGS, ignore_default_args=["--disable-back-forward-cache"]
        )
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh visitor: no cookies, no storage."""
    context = await browser.new_context(locale="vi-VN", timezone_id="Asia/Ho_Chi_Minh")
    context.set_default_timeout(30_000)
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


@asynccontextmanager
async def unattended(url: str) -> AsyncIterator[None]:
    """A Chromium at `url` that no DevTools are attached to, for what it does not do under them.

    Its pages steer themselves, by the sink's gate.
    """
    need_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM), *ARGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", url,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


STUB = (STATIC / "stub.js").read_text("utf-8").strip()


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.02)


async def ready(page: Page, url: str) -> None:
    await page.goto(url)
    await page.wait_for_function("window.tracker && tracker.loaded")


async def own_clock(page: Page) -> None:
    """The page's time is the test's. No request is given up by it: the answers come in real time."""
    at_s = time.time()
    await page.clock.install(time=at_s)
    await page.clock.pause_at(at_s + 1)  # else it goes on by itself, too, and further on a slow machine
    await page.add_init_script("AbortSignal.timeout = undefined")


async def passing(page: Page, condition: Callable[[], Any]) -> None:
    """`until`, while the page's own clock goes on: what waits for an answer to a request is sent by a timer then."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await page.clock.run_for(250)
        await asyncio.sleep(0.02)


class Sink:
    """Serves pages with the pasted snippet, and records every POST."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        """path, headers (lower-case names), body (decoded), status that was answered."""
        self.answer: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})
        self.head = ""
        """HTML after the stub."""
        self.body = ""
        self.endpoint = ""
        """Where the script comes from and its events go; '': here."""
        self.upstream = ""
        """The endpoint that answers where `answer` says 200; '': none, this one does."""
        self.key = "k-123456"
        self.build = "t.js"
        self.attributes = ""
        self.delay_s = 0.0
        self.late = False
        """The script does not come, or late, for another reason."""
        self.script_status = 200
        self.headers: dict[str, str] = {}
        self.worker = ""
        """/sw.js, the site's own service worker."""
        self.html = ""
        """The whole page; '': made of the parts."""
        self.pages: dict[str, str] = {}
        """The whole page by path, before `html`."""
        self.told: list[str] = []
        """What pages have said to /told?..."""
        self.cookie: Callable[[str | None, bytes], str] = lambda _origin, _query: ""
        """Set-Cookie of /v1/batch/id, from the request's origin and query."""
        self.asked: list[str] = []
        """Queries of /v1/batch/id."""
        self.cookie_gate = asyncio.Event()
        """/v1/batch/id answers while it is set."""
        self.cookie_gate.set()
        self.answer_gate = asyncio.Event()
        """POSTs are recorded at once, and answered while it is set."""
        self.answer_gate.set()
        self.gate = asyncio.Event()
        """/gate answers when it is set."""

    def stub(self) -> str:
        """Where the script comes at once, it does not take it for late because the machine is slow."""
        return STUB if self.late or self.delay_s or self.script_status != 200 else STUB.replace("5e3", "6e4")

    def script(self) -> str:
        to = f"{self.endpoint or self.url}/v1/batch?writeKey={self.key}"
        src = f"{self.url}/{self.build}" if not self.endpoint else f"{self.endpoint}/{self.build}"
        return (
            f'<script id="trk" async src="{src}" data-write-key="{self.key}" data-to="{to}" {self.attributes}></script>'
        )

    def events(self, status: int = 200) -> list[dict[str, Any]]:
        """The events of all requests that were answered with `status`."""
        batches = [r["body"] for r in self.requests if r["status"] == status and isinstance(r["body"], dict)]
        return [event for body in batches for event in body["batch"]]

    def calls(self) -> list[list[Any]]:
        """What stubs have sent: [method, ...arguments]; [] of what is no JSON."""
        return [(call or [])[1:] for r in self.requests if isinstance(r["body"], list) for call in r["body"][2]]

    async def get_page(self, request: web.Request) -> web.Response:
        html = self.pages.get(request.path) or self.html
        if not html:
            head = f"<title>Tiệm</title>{self.script()}<script>{self.stub()}</script>{self.head}"
            html = f"<!doctype html><html><head>{head}</head><body>{self.body}</body></html>"
        return web.Response(text=html, content_type="text/html", headers=self.headers)

    async def get_script(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay_s)
        return web.Response(
            text=(STATIC / request.path[1:]).read_text(), content_type="text/javascript", status=self.script_status
        )

    async def get_told(self, request: web.Request) -> web.Response:
        self.told.append(unquote(request.query_string))
        return web.Response(status=204)

    async def get_gate(self, _: web.Request) -> web.Response:
        await self.gate.wait()
        return web.Response(status=204)

    async def get_worker(self, _: web.Request) -> web.Response:
        return web.Response(text=self.worker, content_type="text/javascript")

    async def set_cookie(self, request: web.Request) -> web.Response:
        self.asked.append(request.query_string)
        await self.cookie_gate.wait()
        cookie = self.cookie(request.headers.get("Origin"), request.rel_url.raw_query_string.encode())
        return web.Response(status=204, headers={"Set-Cookie": cookie} if cookie else {})

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
        await self.answer_gate.wait()
        if self.upstream and status == 200:
            async with ClientSession() as http, http.post(self.upstream + request.path_qs, data=raw) as answer:
                return web.Response(status=answer.status, body=await answer.read())
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
            *(web.get(f"/{name}", sink.get_script) for name in ("t.js", "t.lite.js", "t.full.js", "t.sw.js")),
            web.get("/sw.js", sink.get_worker),
            web.get("/favicon.ico", _empty),
            web.get("/told", sink.get_told),
            web.get("/gate", sink.get_gate),
            web.get("/{path:.*}", sink.get_page),
            web.post("/v1/batch/id", sink.set_cookie),
            web.post("/{path:.*}", sink.post),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield sink
    sink.answer_gate.set()
    await runner.cleanup()


async def _empty(_: web.Request) -> web.Response:
    return web.Response(status=204)


class Log:
    """What comes to tracker.events.v1, read once for all tests."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []

    def of(self, url: str) -> list[dict[str, Any]]:
        """The events of pages under `url`, in their own order of time."""
        found = [v for v in self.values if v.get("context", {}).get("page", {}).get("url", "").startswith(url)]
        return sorted(found, key=lambda v: v["timestampMs"])

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    if b'"context":{' in record.value:
                        self.values.append(json.loads(record.value))


@pytest.fixture(scope="session")
async def log(stack: Stack) -> AsyncIterator[Log]:
    log = Log()
    async with topics.admin(stack.settings.kafka) as client:
        (described,) = await client.describe_topics([EVENTS])
    async with AIOKafkaConsumer(bootstrap_servers=stack.settings.kafka, enable_auto_commit=False) as consumer:
        partitions = [TopicPartition(EVENTS, p["partition"]) for p in described["partitions"]]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        reading = asyncio.create_task(log.read(consumer))
        yield log
        reading.cancel()


@pytest.fixture
def shop(sink: Sink, stack: Stack) -> Sink:
    """Pages of one origin whose snippet and endpoint are the real ones at another."""
    sink.endpoint, sink.key = stack.http, stack.sites[0].write_key
    return sink
