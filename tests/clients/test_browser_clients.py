"""Clients of other vendors in Chromium, on a page of another origin than the endpoint's: CORS and preflights are real.

Their npm builds are bundled as a site would (esbuild). All of them run at once, with faults as in test_server_clients.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from playwright.async_api import Browser, Request, Response

from tests.clients.drive import HERE, MODULES, OVERSIZE, TYPES, Client, Faults, Run, calls, check, read_all
from tests.conftest import missing
from tests.harness import ROOT, Site, Stack
from tracker.contract.topics import DEAD_LETTERS, EVENTS

pytestmark = [pytest.mark.integration, pytest.mark.browser]

ESBUILD: Final = ROOT / "sdk_js" / "node_modules" / ".bin" / "esbuild"
PAGE: Final = (
    '<!doctype html><html lang="vi"><meta charset="utf-8"><title>Tiệm</title><script src="/clients.js"></script>'
)
TIMEOUT_S: Final = 60.0
MANY: Final = 25


@dataclass(frozen=True)
class Case:
    client: Client
    name: str
    """In node/browser.js."""
    batching: bool = False
    beacon: bool = False
    faulty: bool = False


_SEGMENT: Final = Client("@segment/analytics-next", ("analytics.js", "npm:next-{}"), (), oversize="413")
_RUDDER: Final = Client(
    "@rudderstack/analytics-js", ("RudderLabs JavaScript SDK", "{}"), (), oversize="413",
    types=tuple(kind for kind in TYPES if kind != "screen"),
)  # fmt: skip
_JITSU: Final = Client(
    "@jitsu/js", ("@jitsu/js", "{}"), (), oversize="413", types=("identify", "track", "page", "group")
)


def _batched(client: Client) -> Client:
    """In a batch, one event that is too large goes to the dead letters."""
    return replace(client, oversize="letter")


CASES: Final[dict[str, Case]] = {
    "segment": Case(_SEGMENT, "segment"),
    "segment-faulty": Case(_SEGMENT, "segment", faulty=True),
    "segment-batching": Case(_batched(_SEGMENT), "segment", batching=True),
    "segment-batching-faulty": Case(_batched(_SEGMENT), "segment", batching=True, faulty=True),
    "rudder": Case(_RUDDER, "rudder"),
    "rudder-batching-faulty": Case(_batched(_RUDDER), "rudder", batching=True, faulty=True),
    "rudder-beacon": Case(_batched(_RUDDER), "rudder", beacon=True),
    "jitsu": Case(_JITSU, "jitsu"),
    "jitsu-faulty": Case(_JITSU, "jitsu", faulty=True),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MODULES.exists() or not ESBUILD.exists():
        missing("the browser clients or esbuild are not installed: make setup clients")
    file = tmp_path_factory.mktemp("bundle") / "clients.js"
    argv = [str(ESBUILD), "browser.js", "--bundle", "--format=iife", "--log-level=error", f"--outfile={file}"]
    subprocess.run(argv, cwd=HERE / "node", check=True, timeout=60)
    return file


@pytest.fixture(scope="module")
async def shop(bundle: Path) -> AsyncIterator[str]:
    """Address of a page with the clients."""

    async def page(request: web.Request) -> web.StreamResponse:
        if request.path == "/clients.js":
            return web.FileResponse(bundle)
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


Sent = tuple[dict[str, Run], list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
async def sent(stack: Stack, browser: Browser, shop: str) -> Sent:
    """Case -> its run; the events in Kafka; the dead letters, with their `user`."""
    site = stack.site()
    with ExitStack() as opened:
        hosts = {
            name: opened.enter_context(Faults(stack.http)).url if case.faulty else stack.http
            for name, case in CASES.items()
        }
        # A beacon that the browser has no room for (64 KB under way) is lost with this client: it goes alone.
        runs: dict[str, Run] = {}
        for alone in (False, True):
            names = [name for name, case in CASES.items() if case.beacon is alone]
            driven = (_drive(browser, shop, name, CASES[name], hosts[name], site) for name in names)
            runs |= dict(zip(names, await asyncio.gather(*driven), strict=True))
        # A client's promises don't say when an event has left for good, so its page stays until all are in Kafka.
        wanted = sum(len(run.calls) - 1 for run in runs.values())
        end = time.monotonic() + TIMEOUT_S
        while True:
            events = await read_all(stack, EVENTS, site)
            if len({event["messageId"] for event in events}) >= wanted or time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
    letters = await read_all(stack, DEAD_LETTERS, site)
    for letter in letters:
        original = base64.b64decode(letter["original"]).decode()
        letter["user"] = next((run.user for run in runs.values() if f'"{run.user}"' in original), None)
    for run in runs.values():
        run.ended_ms = time.time() * 1000
    return runs, events, letters


async def _drive(browser: Browser, shop: str, name: str, case: Case, host: str, site: Site) -> Run:
    run = Run(case.client, f"{name}-user", calls(f"{name}-user", case.client.types, MANY))
    context = await browser.new_context(locale="vi-VN", timezone_id="Asia/Ho_Chi_Minh")
    page = await context.new_page()
    page.on("pageerror", lambda error: run.errors.append(str(error)))

    def asked(request: Request) -> None:
        if not request.url.startswith((shop, host)):
            run.errors.append(f"it asks {request.url}")

    def answered(response: Response) -> None:
        if response.status == 413:
            run.refused.append(OVERSIZE)

    page.on("request", asked)
    page.on("response", answered)
    await page.goto(shop)
    options = {"host": host, "key": site.write_key, "batching": case.batching, "beacon": case.beacon}
    task = json.dumps({**options, "calls": run.calls})
    try:
        driven = page.evaluate("([client, task]) => drive(client, task)", [case.name, task])
        await asyncio.wait_for(driven, TIMEOUT_S)
    except Exception as e:
        run.failure = repr(e)
    return run


@pytest.mark.parametrize("name", CASES)
async def test_every_call_of_a_page_is_in_kafka(sent: Sent, name: str) -> None:
    run = sent[0][name]
    check(run, *sent[1:])
    times = Counter(event["messageId"] for event in sent[1] if event.get("userId") == run.user)
    assert max(times.values()) == (2 if CASES[name].faulty else 1)
    anonymous = {event["anonymousId"] for event in sent[1] if event.get("userId") == run.user}
    assert len(anonymous) == 1
