"""What users of other snippets complain of, in a real browser with the real endpoint: each event is in Kafka, once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route

from tests.harness import Stack

from .conftest import STUB, Log, Sink, ready, until

pytestmark = [pytest.mark.browser, pytest.mark.integration]

SETTLED_S = 1.0
"""After so long a second copy would have come, too."""


async def names_of(log: Log, url: str, count: int, timeout_s: float = 30) -> list[str]:
    """Names of the events of `url`, by time; `count` of them are awaited, and then whether more come."""
    await until(lambda: len(log.of(url)) >= count, timeout_s)
    await asyncio.sleep(SETTLED_S)
    return [str(e.get("event") or e["type"]) for e in log.of(url)]


def by(n: str) -> Callable[[dict[str, Any]], Any]:
    return lambda event: event["properties"][n]


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_leaving_in_mid_queue_loses_nothing(page: Page, shop: Sink, log: Log, build: str) -> None:
    shop.build = build
    url = f"{shop.url}/leaving"
    await ready(page, url)
    await page.evaluate(
        """() => {
            for (let i = 0; i < 30; i++) tracker.track('Early ' + i);
            setTimeout(() => {
                for (let i = 0; i < 30; i++) tracker.track('Late ' + i);
                location.href = 'about:blank';
            }, 270);  // the first are on their way, the others wait
        }"""
    )
    names = await names_of(log, url, 60)
    assert sorted(names) == sorted(f"{part} {i}" for part in ("Early", "Late") for i in range(30))


async def test_calls_leave_when_the_script_is_blocked(page: Page, shop: Sink, log: Log) -> None:
    shop.late = True
    await page.route("**/t.js", lambda route: route.abort())
    url = f"{shop.url}/blocked?utm_source=zalo"
    shop.head = (
        "<script>tracker.page(); tracker.identify('u-blocked', {plan: 'a'}); tracker.track('Seen', {n: 1})</script>"
    )
    await page.goto(url)
    assert await names_of(log, url, 3) == ["page", "identify", "Seen"]
    await page.evaluate("tracker.track('Later'); location.href = 'about:blank'")
    assert await names_of(log, url, 4) == ["page", "identify", "Seen", "Later"]
    viewed, known, seen, later = log.of(url)
    assert viewed["properties"]["path"] == "/blocked"
    assert viewed["campaign"] == {"source": "zalo"}
    assert (known["userId"], known["traits"], seen["properties"]) == ("u-blocked", {"plan": "a"}, {"n": 1})
    assert len({e["anonymousId"] for e in (viewed, known, seen, later)}) == 1


async def test_what_left_before_the_late_script_came_is_not_sent_again(page: Page, shop: Sink, log: Log) -> None:
    shop.late, between = True, asyncio.Event()

    async def late(route: Route) -> None:
        await between.wait()
        await route.continue_()

    await page.route("**/t.js", late)
    await page.add_init_script(
        "{const set = setTimeout; window.setTimeout = (f, ms) => set(f, ms === 5000 ? 300 : ms)}"
    )
    url = f"{shop.url}/late"
    shop.head = """<script>
        tracker.track('Before'); tracker.identify('u-late'); tracker.ready(() => { window.called = true });
    </script>"""
    await page.goto(url, wait_until="commit")
    await until(lambda: len(log.of(url)) == 2)
    await page.evaluate("tracker.track('Between')")
    between.set()
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.track('After')")
    assert await names_of(log, url, 4) == ["Before", "identify", "Between", "After"]
    assert log.of(url)[3]["userId"] == "u-late"
    assert await page.evaluate("window.called") is True


async def test_events_made_offline_come_when_the_network_is_back(
    page: Page, context: BrowserContext, shop: Sink, log: Log
) -> None:
    url = f"{shop.url}/offline"
    await ready(page, url)
    await context.set_offline(True)
    await page.evaluate("for (let i = 0; i < 5; i++) tracker.track('Train ' + i)")
    await page.wait_for_function("Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    await context.set_offline(False)
    assert await names_of(log, url, 5) == [f"Train {i}" for i in range(5)]


async def test_the_queue_of_a_closed_page_is_taken_over_by_one_of_several_tabs(
    page: Page, context: BrowserContext, shop: Sink, log: Log
) -> None:
    url = f"{shop.url}/tabs"
    await ready(page, url)
    await context.set_offline(True)
    await page.evaluate("for (let i = 0; i < 5; i++) tracker.track('Left ' + i)")
    await page.wait_for_function("Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    tabs = [await context.new_page() for _ in range(3)]
    await page.close(run_before_unload=False)
    await context.set_offline(False)
    await asyncio.gather(*(ready(tab, f"{url}/{n}") for n, tab in enumerate(tabs)))
    for n, tab in enumerate(tabs):
        await tab.evaluate(f"tracker.track('Tab {n}')")
    names = await names_of(log, url, 8)
    assert sorted(names) == [*(f"Left {i}" for i in range(5)), *(f"Tab {n}" for n in range(3))]


async def test_a_burst_of_ten_thousand_arrives_whole(page: Page, shop: Sink, log: Log) -> None:
    url = f"{shop.url}/burst"
    await ready(page, url)
    took_ms = await page.evaluate(
        "() => { const t = performance.now(); for (let i = 0; i < 10000; i++) tracker.track('B', {i});"
        " return performance.now() - t }"
    )
    await until(lambda: len(log.of(url)) >= 10_000, 60)
    await asyncio.sleep(SETTLED_S)
    assert [e["properties"]["i"] for e in sorted(log.of(url), key=by("i"))] == list(range(10_000))
    assert took_ms < 10_000


@pytest.mark.parametrize("status", [429, 503])
async def test_an_answer_that_says_later_is_obeyed_and_the_event_comes_once(
    page: Page, shop: Sink, log: Log, status: int
) -> None:
    tried_at: list[float] = []
    bodies: list[Any] = []

    async def busy(route: Route) -> None:
        tried_at.append(time.monotonic())
        bodies.append(json.loads(route.request.post_data or ""))
        if len(tried_at) > 1:
            await route.continue_()
            return
        headers = {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "Retry-After",
            "Retry-After": "2",
        }
        await route.fulfill(status=status, headers=headers, body="{}")

    await page.route("**/v1/batch", busy)
    url = f"{shop.url}/busy-{status}"
    await ready(page, url)
    await page.evaluate("tracker.track('Patient')")
    assert await names_of(log, url, 1) == ["Patient"]
    assert tried_at[1] - tried_at[0] >= 1.9
    assert bodies[0]["batch"] == bodies[1]["batch"]  # also its messageId


@pytest.mark.parametrize("wrong_ms", [-86_400_000, 86_400_000])
async def test_a_clock_that_is_wrong_by_a_day_is_put_right(page: Page, shop: Sink, log: Log, wrong_ms: int) -> None:
    await page.add_init_script(
        f"const wrong = {wrong_ms};"
        """{
            const Real = Date;
            window.Date = class extends Real {
                constructor(...args) { args.length ? super(...args) : super(Real.now() + wrong) }
                static now() { return Real.now() + wrong }
            };
        }"""
    )
    url = f"{shop.url}/clock"
    shop.attributes = "data-spa"
    await ready(page, url)
    assert await names_of(log, url, 1) == ["page"]
    [event] = log.of(url)
    assert abs(event["timestampMs"] - time.time() * 1000) < 10_000


async def test_where_cookies_and_storage_are_denied_events_come_all_the_same(page: Page, shop: Sink, log: Log) -> None:
    """The browser denies them: a sandboxed page has an origin of its own."""
    shop.headers = {"Content-Security-Policy": "sandbox allow-scripts"}
    shop.head = "<script>tracker.page(); tracker.identify('u-denied', {plan: 'a'})</script>"
    url = f"{shop.url}/denied"
    await ready(page, url)
    denied = (
        "() => ['document.cookie', 'localStorage', 'sessionStorage'].map(what => {"
        " try { eval(what) } catch (e) { return e.name } })"
    )
    assert await page.evaluate(denied) == ["SecurityError"] * 3
    await page.evaluate("tracker.track('Waits'); tracker.track('Leaves'); location.href = 'about:blank'")
    assert await names_of(log, url, 4) == ["page", "identify", "Waits", "Leaves"]
    assert len({e["anonymousId"] for e in log.of(url)}) == 1
    assert log.of(url)[3]["userId"] == "u-denied"


async def test_loading_the_script_twice_counts_nothing_twice_and_stacks_no_wrappers(
    page: Page, shop: Sink, log: Log
) -> None:
    shop.attributes = "data-spa"
    again = shop.script().replace("/t.js", "/t.full.js")
    shop.head = f"<script>tracker.track('Once')</script>{again}<script>{STUB}</script>{shop.script()}"
    url = f"{shop.url}/twice"
    await ready(page, f"{url}/a")
    await page.evaluate("window.before = history.pushState; history.pushState({}, '', 'b')")

    def found() -> list[str]:
        events = [(e.get("event"), e["context"]["page"]["path"].rpartition("/")[2]) for e in log.of(url)]
        return sorted(name or path for name, path in events if name != "Page Engaged")

    await until(lambda: "b" in found())
    await page.evaluate(
        """() => {
            const script = document.createElement('script');
            Object.assign(script, {src: document.querySelector('#trk').src});
            Object.assign(script.dataset, document.querySelector('#trk').dataset);
            script.onload = () => { window.same = window.before === history.pushState };
            document.head.append(script);
        }"""
    )
    await page.wait_for_function("window.same === true")
    await page.evaluate("tracker.track('Then')")
    await until(lambda: "Then" in found())
    await asyncio.sleep(SETTLED_S)
    assert found() == ["Once", "Then", "a", "b"]  # whichever build came first is in charge


# What came after Safari 12 and Chrome 64, as far as scripts like to use it.
NEWER = """{
    const gone = {
        Object: ["fromEntries", "hasOwn", "groupBy"], Promise: ["allSettled", "any", "withResolvers", "try"],
        "Array.prototype": ["flat", "flatMap", "at", "findLast", "toSorted", "toReversed", "toSpliced", "with"],
        "String.prototype": ["matchAll", "replaceAll", "at", "trimStart", "trimEnd"], crypto: ["randomUUID", "subtle"],
        "Request.prototype": ["keepalive"], "Navigator.prototype": ["locks", "userAgentData", "userActivation"],
        "Document.prototype": ["prerendering"], "Element.prototype": ["replaceChildren"],
        window: ["queueMicrotask", "structuredClone", "requestIdleCallback", "ResizeObserver", "WeakRef",
                 "AggregateError", "CompressionStream", "scheduler", "navigation", "cookieStore", "reportError"],
    };
    for (const [owner, names] of Object.entries(gone)) {
        const object = owner.split(".").reduce((at, name) => at[name], window);
        for (const name of names) {
            delete object[name];
            if (name in object) Object.defineProperty(object, name, {value: undefined});
        }
    }
}"""


@pytest.mark.parametrize("build", ["t.js", "t.full.js", "t.lite.js"])
async def test_a_browser_of_2018_is_enough(page: Page, shop: Sink, log: Log, build: str) -> None:
    """Its syntax is the build's to see to (npm run check); here it has none of the functions that came later."""
    await page.add_init_script(NEWER)
    shop.build = build
    shop.head = "<script>tracker.page('Shop', 'Old'); tracker.identify('u-old', {plan: 'a'})</script>"
    url = f"{shop.url}/old"
    await ready(page, f"{url}?utm_source=zalo")
    assert await page.evaluate("[typeof queueMicrotask, typeof [].flat, 'keepalive' in Request.prototype]") == [
        "undefined", "undefined", False
    ]  # fmt: skip
    await page.evaluate("tracker.track('First')")

    def names() -> list[str]:
        found = [str(e.get("event") or e["type"]) for e in log.of(url)]
        return [name for name in found if name != "Page Engaged"]

    await until(lambda: len(names()) == 3)
    await page.evaluate("tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: len(names()) == 4)
    await asyncio.sleep(SETTLED_S)
    assert names() == ["page", "identify", "First", "Last"]


async def test_a_strict_policy_with_nonces_lets_the_printed_tags_work(
    page: Page, shop: Sink, stack: Stack, log: Log
) -> None:
    from tracker.cli.snippet import policy, tags

    url = f"{shop.url}/csp"
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    for nonce in ("n0nce", None):
        printed = tags(stack.settings, shop.key, stack.http, ".full", {"spa": ""}, nonce, True)
        rules = policy(stack.http, nonce).strip().partition(": ")[2]
        shop.html = f"<!doctype html><title>x</title>{printed}"
        shop.headers = {"Content-Security-Policy": f"default-src 'none'; {rules}"}
        await page.goto(f"{url}/{nonce}?tracker_debug=1")
        await until(lambda n=nonce: len(log.of(f"{url}/{n}")) >= 2)  # type: ignore[misc]
        assert [e["type"] for e in log.of(f"{url}/{nonce}") if e["type"] == "page"] == ["page"]
    assert [line for line in refused if "favicon" not in line] == []


async def test_the_printed_tags_carry_the_names_that_this_installation_has() -> None:
    from tests.harness import cli

    done = cli("snippet", "--url", "https://s.example", "--full", snippet_path="/s/app.js", batch_path="/s/in", demo=1)
    assert done.returncode == 0, done.stderr
    assert 'src="https://s.example/s/app.full.js"' in done.stdout
    assert 'data-path="/s/in"' in done.stdout
    assert "https://s.example/s/in?writeKey=" in done.stdout
