"""Page views where others count twice, not at all, or with the wrong referrer; visits and what brought the visitor."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page

from .conftest import Log, Sink, own_clock, passing, ready, unattended, until

pytestmark = [pytest.mark.browser, pytest.mark.integration]


def views(log: Log, url: str) -> list[tuple[str, str]]:
    """(path and query, path of the referrer) of the page views of `url`."""
    pages = [e["properties"] for e in log.of(url) if e["type"] == "page"]
    return [(p["path"].rpartition("/")[2] + p["search"], p["referrer"].rpartition("/")[2]) for p in pages]


# The step, the event of the address where there is one, and longer than the snippet waits.
STEP = """async step => {
    const before = location.href;
    const turned = new Promise(resolve => addEventListener("popstate", resolve, {once: true}));
    eval(step);
    if (/back|hash/.test(step) && (step.includes("back") || location.href !== before)) await turned;
    await new Promise(resolve => setTimeout(resolve, 80));
}"""


async def test_each_view_of_a_single_page_application_counts_once_with_the_page_before_as_referrer(
    page: Page, shop: Sink, log: Log
) -> None:
    shop.attributes = "data-spa"
    url = f"{shop.url}/spa"
    await ready(page, f"{url}/a")
    steps = (
        "history.pushState({}, '', 'b'); history.replaceState({}, '', 'b?x=1')",  # one view: in one tick
        "history.replaceState({}, '', 'c')",
        "history.pushState({}, '', 'c')",  # no other page
        "history.pushState({}, '', 'd'); history.replaceState({}, '', 'c')",  # nor this one
        "history.pushState({}, '', '#part')",  # nor this one
        "history.back()",
        "history.back()",
        "history.back()",
    )
    for step in steps:
        await page.evaluate(STEP, step)
    await page.evaluate("history.pushState({}, '', 'last'); location.href = 'about:blank'")  # left before the timer
    await until(lambda: len(views(log, url)) >= 4)
    await asyncio.sleep(1)
    seen = views(log, url)
    assert seen[:3] == [("a", ""), ("b?x=1", "a"), ("c", "b?x=1")]
    assert seen[-1][0] == "last"
    assert [path for path, _ in seen].count("c") == 1


async def test_a_route_of_the_navigation_api_is_a_page(page: Page, sink: Sink) -> None:
    sink.attributes = "data-spa"
    sink.body = '<a id="go" href="/b">b</a>'
    await ready(page, f"{sink.url}/a")
    await page.evaluate("navigation.addEventListener('navigate', e => e.intercept({handler: async () => {}}))")
    await page.click("#go")
    await until(lambda: len(sink.events()) >= 2)
    await page.evaluate("navigation.back().finished")
    await until(lambda: len(sink.events()) >= 3)
    await page.evaluate("navigation.updateCurrentEntry({state: 1})")
    await asyncio.sleep(0.5)
    assert [e["properties"]["path"] for e in sink.events()] == ["/a", "/b", "/a"]


async def test_with_hash_routes_each_route_is_a_page(page: Page, shop: Sink, log: Log) -> None:
    shop.attributes = 'data-spa="hash"'
    url = f"{shop.url}/hash"
    await ready(page, url)
    for step in ("location.hash = '#/a'", "location.hash = '#/b'", "location.hash = '#/b'"):
        await page.evaluate(STEP, step)
    await until(lambda: len(log.of(url)) >= 3)
    await asyncio.sleep(0.5)
    assert [e["properties"]["url"].partition("#")[2] for e in log.of(url)] == ["", "/a", "/b"]


async def test_a_page_that_comes_back_from_the_back_forward_cache_is_viewed_again_and_its_events_come_once(
    page: Page, shop: Sink, log: Log
) -> None:
    shop.attributes = "data-spa"
    url = f"{shop.url}/bfcache"
    await ready(page, url)
    await page.evaluate(
        "window.kept = true; addEventListener('pageshow', e => { window.restored = e.persisted });"
        " tracker.track('Left')"
    )
    await page.goto(f"{shop.url}/elsewhere")
    await page.go_back(wait_until="commit")
    await page.wait_for_function("window.restored === true && window.kept")
    await page.evaluate("tracker.track('Back')")
    await until(lambda: len(log.of(url)) >= 4)
    await asyncio.sleep(1)
    assert [e.get("event") or e["type"] for e in log.of(url)] == ["page", "Left", "page", "Back"]


START = """<!doctype html><title>Start</title>
<script type="speculationrules">{"prerender": [{"urls": ["never", "shown"], "eagerness": "immediate"}]}</script>
<script>fetch("/gate").then(() => { location.href = "shown" })</script>"""

PRERENDERED = """<script>
    const page = location.pathname.split("/").pop();
    tracker.track("Loaded");
    document.addEventListener("prerenderingchange", () => fetch("/told?shown " + page));
    const loading = setInterval(() => {
        if (!tracker.loaded) return;
        clearInterval(loading);
        tracker.track("Early");
        // Longer than a batch waits: what would leave has left.
        const facts = () => [page, document.prerendering, document.cookie, Object.keys(localStorage)];
        setTimeout(() => fetch("/told?" + facts()), 600);
    }, 20);
</script>"""


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_a_page_that_is_prerendered_counts_from_when_it_is_shown_or_not_at_all(
    shop: Sink, log: Log, build: str
) -> None:
    """By speculation rules, in a browser of its own: Chromium prerenders nothing while DevTools are attached."""
    url = f"{shop.url}/prerender"
    shop.pages["/prerender/start"] = START
    shop.build, shop.attributes = build, "data-spa"
    shop.head = PRERENDERED + ("<script>tracker.page()</script>" if build == "t.lite.js" else "")
    async with unattended(f"{url}/start"):
        await until(lambda: len(shop.told) >= 2)
        assert sorted(shop.told) == ["never,true,,", "shown,true,,"]
        assert log.of(url) == []
        shown_ms = time.time() * 1000
        shop.gate.set()
        await until(lambda: len(log.of(url)) >= 3)
        await asyncio.sleep(0.5)
    assert shop.told[2:] == ["shown shown"]
    assert sorted(e.get("event") or e["type"] for e in log.of(f"{url}/shown")) == ["Early", "Loaded", "page"]
    assert len(log.of(url)) == 3
    assert min(e["timestampMs"] for e in log.of(url)) >= shown_ms - 20


async def test_a_visit_ends_after_thirty_minutes_and_the_first_and_last_touch_stay(
    page: Page, context: BrowserContext, shop: Sink, log: Log
) -> None:
    await own_clock(page)
    shop.attributes = "data-spa"
    url = f"{shop.url}/visit"
    for query in ("?utm_source=zalo&gclid=g1", "", "?ttclid=t1&__proto__=x&utm___proto__=y&constructor=z"):
        await page.goto(f"{url}/a{query}")
        await passing(page, lambda q=query: any(e["context"]["page"]["search"] == q for e in log.of(url)))  # type: ignore[misc]
        await page.clock.fast_forward(20 * 60_000)
    await page.clock.fast_forward(31 * 60_000)
    await page.evaluate("tracker.track('Later')")
    await passing(page, lambda: len(log.of(url)) >= 4)
    events: list[Any] = sorted(log.of(url), key=lambda e: e["receivedAtMs"])
    sessions = [e["context"]["sessionId"] for e in events]
    assert sessions[0] == sessions[1] == sessions[2] != sessions[3]
    assert [e["context"].get("sessionStart") for e in events] == [True, None, None, True]
    touches = [e["context"]["attribution"] for e in events[:3]]
    assert {t["first"]["campaign"]["source"] for t in touches} == {"zalo"}
    assert {t["first"]["clickIds"]["gclid"] for t in touches} == {"g1"}
    assert touches[1]["last"]["campaign"]["source"] == "zalo"  # a direct visit takes nothing away
    assert touches[2]["last"]["clickIds"] == {"ttclid": "t1"}
    assert events[2]["clickIds"] == {"ttclid": "t1"}
    assert await page.evaluate("({}).x") is None
