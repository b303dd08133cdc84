"""Pages that have changed what the snippet stands on, or forbid it: what is called arrives as it was said, once, and
nothing throws into the page."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page

from .conftest import STUB, Sink, ready, until

pytestmark = pytest.mark.browser

SETTLED_S = 0.7
BUILDS = ["t.js", "t.lite.js", "t.full.js"]


def told(sink: Sink) -> list[dict[str, Any]]:
    """The events of the calls; what the full build tells by itself is left out."""
    return [e for e in sink.events() if e.get("event") != "Page Engaged"]


def names(sink: Sink) -> list[str]:
    return [str(e.get("event") or e["type"]) for e in told(sink)]


POLLUTED = """
    Object.prototype.clone = function () { return this };
    Object.prototype.extra = {deep: 1};
    Array.prototype.each = function (f) { this.forEach(f) };
    String.prototype.strip = function () { return this.trim() };
"""
PATCHED_DATE = """{
    const Real = Date;
    window.Date = function (...args) { return new Real(...(args.length ? args : [Real.now()])) };
    Date.now = () => Real.now() + 0.5;
    Date.parse = Real.parse; Date.UTC = Real.UTC; Date.prototype = Real.prototype;
}"""
FETCH_THROWS = "window.fetch = () => { throw new TypeError('patched') };"
NO_COOKIES = """Object.defineProperty(Document.prototype, 'cookie', {
    get() { throw new DOMException('denied', 'SecurityError') },
    set() { throw new DOMException('denied', 'SecurityError') },
});"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') };"


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "hostile",
    [POLLUTED, PATCHED_DATE, NO_COOKIES + FULL],
    ids=["Object.prototype", "Date", "cookies throw and storage is full"],
)
async def test_what_was_called_arrives_as_it_was_said(page: Page, sink: Sink, build: str, hostile: str) -> None:
    await page.add_init_script(hostile)
    sink.build = build
    sink.head = "<script>tracker.page('Home'); tracker.identify('u1', {plan: 'a'})</script>"
    await ready(page, f"{sink.url}?utm_source=zalo")
    await page.evaluate(
        "tracker.track('Ordered', {products: [{sku: 'a', tags: ['x', 'y']}, {sku: 'b'}], at: new Date(0)},"
        " {timestamp: '2026-01-02T03:04:05Z'}); tracker.consent({analytics: true}); tracker.track('Agreed')"
    )
    await until(lambda: len(told(sink)) == 4)
    assert names(sink) == ["page", "identify", "Ordered", "Agreed"]
    viewed, known, ordered, agreed = told(sink)
    assert (viewed["name"], known["userId"], known["traits"]) == ("Home", "u1", {"plan": "a"})
    assert ordered["properties"]["products"] == [{"sku": "a", "tags": ["x", "y"]}, {"sku": "b"}]
    assert ordered["timestamp"] == "2026-01-02T03:04:05.000Z"
    assert agreed["context"]["consent"] == {"analytics": True}
    assert len({e["anonymousId"] for e in told(sink)}) == 1
    for request in sink.requests:
        assert request["body"]["sentAt"].endswith("Z")
    for event in told(sink):
        assert event["timestamp"].endswith("Z")
        assert "clone" not in str(event)
        assert "extra" not in str(event)
    assert "clone" not in await page.evaluate("(() => { try { return document.cookie } catch (e) { return '' } })()")


@pytest.mark.parametrize("build", BUILDS)
async def test_where_fetch_was_replaced_by_one_that_throws_nothing_is_lost(page: Page, sink: Sink, build: str) -> None:
    sink.build = build
    queued = "<script>tracker = [[1, 'track', 'Queued']]</script>"
    sink.pages["/patched"] = f"<!doctype html><script>{FETCH_THROWS}</script>{sink.script()}{queued}"
    await ready(page, f"{sink.url}/patched")
    await page.evaluate("tracker.track('First'); tracker.flush(); tracker.track('Last')")
    await ready(page, f"{sink.url}/next")
    await until(lambda: len(told(sink)) == 3)
    await asyncio.sleep(SETTLED_S)
    assert sorted(names(sink)) == ["First", "Last", "Queued"]


@pytest.mark.parametrize("build", BUILDS)
async def test_of_two_tags_with_two_keys_the_first_has_the_page_and_each_event_comes_once(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build = build
    other = sink.script().replace(sink.key, "k-another").replace('id="trk" async', "")
    tags = f"{sink.script().replace('async', '')}<script>{STUB}</script>{other}<script>{STUB}</script>"
    sink.html = f"<!doctype html>{tags}<script>tracker.track('Once')</script>"
    await ready(page, sink.url)
    await until(lambda: told(sink))
    await page.goto("about:blank")
    await asyncio.sleep(SETTLED_S)
    assert [(r["body"]["writeKey"], [e["event"] for e in r["body"]["batch"]]) for r in sink.requests] == [
        (sink.key, ["Once"])
    ]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("how", ["", "async", "defer", 'type="module"', 'type="module" async'])
async def test_it_starts_however_it_is_loaded(page: Page, sink: Sink, build: str, how: str) -> None:
    sink.build = build
    tag = sink.script().replace("async", how)
    sink.html = f"<!doctype html>{tag}<script>{STUB}</script><script>tracker.track('Here')</script>"
    await page.goto(sink.url)
    await until(lambda: told(sink))
    assert names(sink) == ["Here"]


@pytest.mark.parametrize("build", BUILDS)
async def test_a_policy_with_nonces_and_trusted_types_refuses_nothing(page: Page, sink: Sink, build: str) -> None:
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    sink.build = build
    rules = "default-src 'none'; script-src 'nonce-n1' 'strict-dynamic'; connect-src 'self'"
    sink.headers = {"Content-Security-Policy": f"{rules}; require-trusted-types-for 'script'; trusted-types 'none'"}
    tag = sink.script().replace("<script", '<script nonce="n1"')
    calls = "tracker.page(); tracker.identify('u1', {plan: 'a'})"
    sink.html = f'<!doctype html><title>x</title>{tag}<script nonce="n1">{STUB}{calls}</script>'
    await page.goto(f"{sink.url}?tracker_debug=1")
    await until(lambda: len(told(sink)) == 2)
    assert [line for line in refused if "favicon" not in line] == []
