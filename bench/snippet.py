"""`python -m bench snippet`: what browser clients weigh, and what they cost the page's main thread, in one run.

Sizes are gzip -9: ours as they are served, the others' npm package bundled and minified as a site would. Cost is the
CPU time of the page's main thread (DevTools' TaskDuration) with the CPU throttled to a quarter: to load the client, and
for 100 events in one go with what follows for 2 s. Needs Chromium, Node and, for the others' clients, `make clients`;
what is not there is left out (Plausible's, Snowplow's and PostHog's are not pinned there).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import statistics
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web
from playwright.async_api import Browser, async_playwright

ROOT: Final = Path(__file__).parents[1]
STATIC: Final = ROOT / "tracker" / "static"
MODULES: Final = ROOT / "tests" / "clients" / "node" / "node_modules"
ESBUILD: Final = ROOT / "sdk_js" / "node_modules" / ".bin" / "esbuild"
EVENTS: Final = 100
THROTTLE: Final = 4
SETTLE_S: Final = 2.0


class Peer(NamedTuple):
    name: str
    entry: str
    """What a site's bundle says: it must set window.hit(i), and window.ready when the client is."""
    timed: bool = False


PEERS: Final = (
    Peer(
        "@segment/analytics-next",
        "import {AnalyticsBrowser} from '@segment/analytics-next';"
        "const a = AnalyticsBrowser.load({writeKey: 'k', cdnURL: location.origin});"
        "window.hit = i => a.track('Added', {i, price: 45000}); a.page().then(() => { window.ready = true })",
        True,
    ),
    Peer(
        "@plausible-analytics/tracker",
        "import {init, track} from '@plausible-analytics/tracker';"
        "init({domain: 'x', endpoint: location.origin + '/api/event', captureOnLocalhost: true});"
        "window.hit = i => track('Added', {props: {i: '' + i, price: '45000'}}); window.ready = true",
        True,
    ),
    Peer(
        "@rudderstack/analytics-js",
        "import {RudderAnalytics} from '@rudderstack/analytics-js'; window.r = RudderAnalytics",
    ),
    Peer("@snowplow/browser-tracker", "import * as s from '@snowplow/browser-tracker'; window.s = s"),
    Peer("@jitsu/js", "import {jitsuAnalytics} from '@jitsu/js'; window.j = jitsuAnalytics"),
    Peer("posthog-js", "import posthog from 'posthog-js'; window.p = posthog"),
)
OURS: Final = ("t.lite.js", "t.js", "t.full.js")


def bundle(peer: Peer) -> str | None:
    if not ((MODULES / peer.name).exists() and ESBUILD.exists()):
        return None
    argv = [str(ESBUILD), "--bundle", "--minify", "--format=iife", "--log-level=error"]
    done = subprocess.run(
        argv, input=peer.entry, cwd=MODULES.parent, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def zipped(text: str) -> int:
    return len(gzip.compress(text.encode(), 9, mtime=0))


async def measure(browser: Browser, url: str) -> tuple[float, float]:
    """Milliseconds of the main thread: to load the client, and for EVENTS events."""
    page = await browser.new_page()
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable")
    await devtools.send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})

    async def spent() -> float:
        metrics: list[dict[str, Any]] = (await devtools.send("Performance.getMetrics"))["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration")) * 1000

    await page.goto(f"{url}/empty")
    await asyncio.sleep(0.3)
    empty = await spent()
    await page.goto(url)
    await page.wait_for_function("window.ready || (window.tracker && tracker.loaded)")
    await asyncio.sleep(SETTLE_S)
    loaded = await spent()
    await page.evaluate(f"for (let i = 0; i < {EVENTS}; i++) hit(i)")
    await asyncio.sleep(SETTLE_S)
    sent = await spent()
    await page.close()
    return max(0.0, loaded - empty), sent - loaded


async def costs(script: str, attributes: str, more: str, rounds: int) -> list[tuple[float, float]]:
    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            await request.read()
            return web.json_response({"success": True})
        if request.path == "/client.js":
            return web.Response(text=script, content_type="text/javascript")
        if request.path.endswith("/settings"):
            host = f"{request.host}/v1"
            return web.json_response(
                {"integrations": {"Segment.io": {"apiKey": "k", "apiHost": host, "protocol": "http"}}}
            )
        tags = (
            "" if request.path == "/empty" else f"<script src=/client.js {attributes}></script><script>{more}</script>"
        )
        return web.Response(text=f"<!doctype html><title>x</title><body>{tags}", content_type="text/html")

    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with async_playwright() as playwright:
            from tests.browser.conftest import ARGS, CHROMIUM

            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            return [await measure(browser, f"http://127.0.0.1:{runner.addresses[0][1]}") for _ in range(rounds)]
    finally:
        await runner.cleanup()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench snippet", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", action="store_true", help="sizes alone")
    options = parser.parse_args(argv)
    hit = "tracker.page(); window.hit = i => tracker.track('Added', {i, price: 45000})"
    rows: list[tuple[str, str, str, str, bool]] = [
        (name, (STATIC / name).read_text("utf-8"), 'data-write-key="k"', hit, True) for name in OURS
    ]
    rows += [(p.name, text, "", "", p.timed) for p in PEERS if (text := bundle(p)) is not None]
    print(f"{'client':32}{'gzip -9, B':>12}{'load, ms':>20}{f'{EVENTS} events, ms':>20}")
    for name, text, attributes, more, timed in rows:
        line = f"{name:32}{zipped(text):>12,}"
        if timed and not options.sizes:
            found = asyncio.run(costs(text, attributes, more, options.rounds))
            for column in zip(*found, strict=True):
                told = f"{statistics.median(column):.0f} ({min(column):.0f}-{max(column):.0f})"
                line += f"{told:>20}"
        print(line, flush=True)
