"""`python -m bench snippet`: what browser clients weigh, and what they cost the page's main thread, in one run.

Sizes are gzip -9: ours as they are served, the others' as a site loads them: the minified build that their npm package
ships and their snippet loads, else the package bundled and minified as a site's own bundler would. Cost is the time of
the main thread's tasks (DevTools' TaskDuration) with the CPU throttled to a quarter, once by the thread's clock (what
it computed) and once by the wall's (with what it waited for, and what the machine did meanwhile): to load the client,
and for 100 events in one go with what follows for 2 s. The clients take turns, each time as a new visitor, of a site
with a name, not an address, which decides about cookies. Needs Chromium, Node and, for the others' clients,
`make peers` (bench/clients has them pinned). `--write` puts what was measured into docs/snippet.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web
from playwright.async_api import Browser, async_playwright

ROOT: Final = Path(__file__).parents[1]
STATIC: Final = ROOT / "tracker" / "static"
CLIENTS: Final = ROOT / "bench" / "clients"
MODULES: Final = CLIENTS / "node_modules"
DOCS: Final = ROOT / "docs" / "snippet.md"
ESBUILD: Final = ROOT / "sdk_js" / "node_modules" / ".bin" / "esbuild"
HOST: Final = "www.shop.localhost"
"""A name that browsers take for this machine, and for a secure context."""
EVENTS: Final = 100
THROTTLE: Final = 4
SETTLE_S: Final = 2.0


class Peer(NamedTuple):
    name: str
    entry: str
    """What a site's bundle says: it must set window.hit(i), and window.ready when the client is."""
    timed: bool = False
    build: str = ""
    """The file of the package that the vendor's snippet loads; '': none is shipped minified."""


PEERS: Final = (
    Peer(
        "@segment/analytics-next",
        "import {AnalyticsBrowser} from '@segment/analytics-next';"
        "const a = AnalyticsBrowser.load({writeKey: 'k', cdnURL: location.origin});"
        "window.hit = i => a.track('Added', {i, price: 45000}); a.page().then(() => { window.ready = true })",
        True,
        "dist/umd/standalone.js",
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
    Peer("@snowplow/browser-tracker", "import * as s from '@snowplow/browser-tracker'", False, "dist/index.umd.min.js"),
    Peer("@jitsu/js", "import {jitsuAnalytics} from '@jitsu/js'; window.j = jitsuAnalytics"),
    Peer("posthog-js", "import posthog from 'posthog-js'", False, "dist/array.js"),
)
EMPTY: Final = "none"
"""What the measuring costs: a script that does nothing."""
OURS: Final = ("t.lite.js", "t.js", "t.full.js")


# The client comes when the page is there, so that what is measured is the client's.
PAGE: Final = """<!doctype html><title>x</title><body><script>
    const add = () => new Promise(resolve => {
        const script = document.createElement("script");
        script.src = "/client.js";
        script.dataset.writeKey = "k";
        script.onload = () => { MORE };
        document.body.append(script);
        const look = setInterval(() => {
            if (!(window.ready || (window.tracker && tracker.loaded))) return;
            clearInterval(look);
            resolve();
        }, 100);
    });
</script>"""


class Client(NamedTuple):
    """What is measured."""

    name: str
    script: str
    more: str = ""
    """What the page says behind the script."""


def budgets() -> dict[str, int]:
    """By file; the build fails above them."""
    text = (ROOT / "sdk_js" / "build.mjs").read_text("utf-8")
    return {name: int(bytes_) for name, bytes_ in re.findall(r'name: "(\S+)", budget: (\d+)', text)}


def pins() -> dict[str, str]:
    found: dict[str, str] = json.loads((CLIENTS / "package.json").read_text("utf-8"))["dependencies"]
    return found


def bundle(peer: Peer) -> str:
    argv = [str(ESBUILD), "--bundle", "--minify", "--format=iife", "--log-level=error"]
    done = subprocess.run(argv, input=peer.entry, cwd=CLIENTS, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def zipped(text: str) -> int:
    return len(gzip.compress(text.encode(), 9, mtime=0))


def size_of_ours(name: str) -> int:
    return zipped((STATIC / name).read_text("utf-8"))


def size(peer: Peer) -> int:
    return zipped((MODULES / peer.name / peer.build).read_text("utf-8") if peer.build else bundle(peer))


class Spent(NamedTuple):
    """Of the main thread, in milliseconds."""

    cpu: float
    wall: float

    def since(self, before: Spent) -> Spent:
        return Spent(self.cpu - before.cpu, self.wall - before.wall)


class Cost(NamedTuple):
    load: Spent
    events: Spent


async def measure(browser: Browser, url: str) -> Cost:
    """What it takes to load the client, and for EVENTS events."""
    page = await browser.new_page()
    clocks = []
    for clock in ("threadTicks", "timeTicks"):
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Performance.enable", {"timeDomain": clock})
        clocks.append(devtools)
    await devtools.send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})

    async def spent() -> Spent:
        found = []
        for devtools in clocks:
            metrics: list[dict[str, Any]] = (await devtools.send("Performance.getMetrics"))["metrics"]
            found.append(next(float(m["value"]) * 1000 for m in metrics if m["name"] == "TaskDuration"))
        return Spent(*found)

    await page.goto(url)
    await asyncio.sleep(SETTLE_S)
    empty = await spent()
    await page.evaluate("add()")
    await asyncio.sleep(SETTLE_S)
    loaded = await spent()
    await page.evaluate(f"for (let i = 0; i < {EVENTS}; i++) hit(i)")
    await asyncio.sleep(SETTLE_S)
    sent = await spent()
    await page.close()
    return Cost(loaded.since(empty), sent.since(loaded))


@asynccontextmanager
async def served(client: Client) -> AsyncIterator[str]:
    """A page with the client, and an endpoint that takes whatever it sends."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            await request.read()
            return web.json_response({"success": True})
        if request.path == "/client.js":
            return web.Response(text=client.script, content_type="text/javascript")
        if request.path.endswith("/settings"):  # Segment's
            host = f"{request.host}/v1"
            return web.json_response(
                {"integrations": {"Segment.io": {"apiKey": "k", "apiHost": host, "protocol": "http"}}}
            )
        return web.Response(text=PAGE.replace("MORE", client.more), content_type="text/html")

    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def costs(clients: list[Client], rounds: int) -> dict[str, list[Cost]]:
    """By client, each round's."""
    found: dict[str, list[Cost]] = {client.name: [] for client in clients}
    async with AsyncExitStack() as stack:
        urls = {client.name: await stack.enter_async_context(served(client)) for client in clients}
        playwright = await stack.enter_async_context(async_playwright())
        from tests.browser.conftest import ARGS, CHROMIUM

        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        stack.push_async_callback(browser.close)
        for _ in range(rounds):
            for name, url in urls.items():
                found[name].append(await measure(browser, url))
    return found


def median(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])


def sizes_of_ours() -> str:
    rows = [
        ("stub" if name == "stub.js" else f"`/{name}`", f"{size_of_ours(name):,}", f"{budget:,}")
        for name, budget in budgets().items()
    ]
    return table(("build", "bytes", "budget"), rows)


def sizes_of_peers() -> str:
    found = sorted((size(peer), peer) for peer in PEERS)
    rows = [
        (f"{peer.name} {pins()[peer.name]}", f"{bytes_:,}", f"`{peer.build}`" if peer.build else "bundled, minified")
        for bytes_, peer in found
    ]
    return table(("npm package", "bytes", "build"), rows)


def cost_table(rounds: int, only: Sequence[str] = ()) -> str:
    hit = "tracker.page(); window.hit = i => tracker.track('Added', {i, price: 45000})"
    clients = [Client(EMPTY, "window.ready = true; window.hit = i => i")]
    clients += [Client(name, (STATIC / name).read_text("utf-8"), hit) for name in OURS if name in only or not only]
    clients += [Client(peer.name, bundle(peer)) for peer in PEERS if peer.timed and (peer.name in only or not only)]
    rows = [
        (
            f"`/{name}`" if name in OURS else f"{name} {pins().get(name, '')}".strip(),
            *(median([float(value) for value in column]) for column in zip(*map(flat, found), strict=True)),
        )
        for name, found in asyncio.run(costs(clients, rounds)).items()
    ]
    return table(
        ("client", "load, CPU ms", "load, wall ms", f"{EVENTS} events, CPU ms", f"{EVENTS} events, wall ms"), rows
    )


def flat(cost: Cost) -> tuple[float, float, float, float]:
    return *cost.load, *cost.events


def write(name: str, text: str) -> None:
    """Puts `text` between `<!-- NAME -->` and `<!-- /NAME -->` of docs/snippet.md."""
    found = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    DOCS.write_text(found.sub(lambda m: f"{m[1]}{text}\n{m[2]}", DOCS.read_text("utf-8")), "utf-8")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench snippet", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", action="store_true", help="sizes alone")
    parser.add_argument("--only", nargs="+", default=(), metavar="CLIENT", help="cost of these alone, sizes of none")
    parser.add_argument("--write", action="store_true", help="into docs/snippet.md")
    options = parser.parse_args(argv)
    if not (MODULES.exists() and ESBUILD.exists()):
        sys.exit(
            "python -m bench snippet: other vendors' clients or esbuild are missing: make setup peers (needs Node 20+)"
        )
    parts = {"sizes": sizes_of_ours, "sizes of others": sizes_of_peers}
    if options.only:
        print(cost_table(options.rounds, options.only))
        return
    if not options.sizes:
        parts["costs"] = lambda: cost_table(options.rounds)
    for name, make in parts.items():
        text = make()
        print(text, flush=True)
        if options.write:
            write(name, text)
