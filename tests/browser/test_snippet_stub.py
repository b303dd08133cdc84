"""The stub: what it takes before the script has come, and what it sends where the script comes late or never."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import BrowserContext, Page

from .conftest import STUB, Sink, unattended, until

pytestmark = pytest.mark.browser

SETTLED_S = 0.7
LATE_S = 6.0
"""The stub waits for 5."""


async def leave(page: Page, sink: Sink | None = None) -> None:
    """`sink`: what leaves with the page is waited for."""
    await page.goto("about:blank")
    if sink is not None:
        await until(lambda: sink.requests)
    await asyncio.sleep(SETTLED_S)


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_a_late_script_sends_what_the_stub_has_not_and_not_what_it_has(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build, sink.delay_s = build, LATE_S
    sink.head = "<script>tracker.page(); tracker.identify('u1')</script>"
    await page.goto(sink.url, wait_until="commit")
    await until(lambda: sink.calls())
    await page.evaluate("tracker.track('Late')")
    await until(lambda: sink.events())
    await asyncio.sleep(SETTLED_S)
    assert sink.calls() == [["page"], ["identify", "u1"]]
    assert [(e["event"], e["userId"]) for e in sink.events()] == [("Late", "u1")]


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
@pytest.mark.parametrize("case", ["consent", "ignored signal", "refused beacon"])
async def test_what_the_stub_did_not_send_is_not_lost_with_a_late_script(
    page: Page, sink: Sink, build: str, case: str
) -> None:
    sink.build, sink.delay_s = build, LATE_S
    before = "tracker.page()"
    if case == "consent":
        sink.attributes = 'data-consent="required"'
        before += "; tracker.ready(() => tracker.consent(true))"
    elif case == "ignored signal":
        sink.attributes = 'data-dnt="ignore"'
        await page.add_init_script("Object.defineProperty(Navigator.prototype, 'doNotTrack', {get: () => '1'})")
    else:
        before = "const real = navigator.sendBeacon; navigator.sendBeacon = () => false; " + before
    sink.head = f"<script>{before}</script>"
    await page.goto(sink.url, wait_until="commit")
    await until(lambda: sink.requests)
    assert [e["type"] for e in sink.events()] == ["page"]


async def test_tags_that_stand_there_twice_and_are_blocked_tell_everything_once(page: Page, sink: Sink) -> None:
    sink.script_status = 404
    sink.head = (
        f"<script>tracker.page()</script>{sink.script()}<script>{STUB}</script><script>tracker.track('A')</script>"
    )
    await page.goto(sink.url)
    await leave(page, sink)
    assert sink.calls() == [["page"], ["track", "A"]]


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_tags_that_stand_there_twice_tell_everything_once(page: Page, sink: Sink, build: str) -> None:
    sink.build = build
    sink.head = (
        f"<script>tracker.page()</script>{sink.script()}<script>{STUB}</script><script>tracker.track('A')</script>"
    )
    await page.goto(sink.url)
    await until(lambda: len(sink.events()) == 2)
    await leave(page)
    assert [e["type"] for e in sink.events()] == ["page", "track"]
    assert sink.calls() == []


async def test_without_a_place_to_send_to_it_only_queues(page: Page, sink: Sink) -> None:
    sink.script_status = 404
    tag = f'<script id="trk" async src="{sink.url}/t.js"></script>'
    sink.html = f"<!doctype html>{tag}<script>{STUB}</script><script>tracker.page()</script>"
    await page.goto(sink.url)
    await leave(page)
    assert sink.requests == []


async def test_without_its_tag_it_throws_nothing(page: Page, sink: Sink) -> None:
    sink.html = f"<!doctype html><script>{STUB}</script><script>tracker.page()</script>"
    await page.goto(sink.url)
    await leave(page)
    assert sink.requests == []


@pytest.mark.parametrize(("cookie", "sent"), [("cookieconsent=full", True), ("trk_consent=false", False)])
async def test_a_no_is_known_by_its_own_cookie(
    page: Page, context: BrowserContext, sink: Sink, cookie: str, sent: bool
) -> None:
    name, value = cookie.split("=")
    await context.add_cookies([{"name": name, "value": value, "url": sink.url}])
    sink.script_status, sink.head = 404, "<script>tracker.page()</script>"
    await page.goto(sink.url)
    await leave(page, sink if sent else None)
    assert sink.calls() == ([["page"]] if sent else [])


CALLS = """
    tracker.page(); tracker.ecommerce.productAdded({sku: 'p1'}); tracker.flush(); tracker.debug(false);
    tracker.screen('S'); tracker.popup.register({id: 'p', show: () => 0}); tracker.popup.show('p'); tracker.load('k');
    tracker.setAnonymousId('a1'); tracker.once('track', () => 0); tracker.off('track', () => 0); tracker.user();
    tracker.track.call(null, 'Called'); tracker.unknown.names.of.depth();
    [].concat(tracker); Object.prototype.toString.call(tracker); typeof tracker.track;
"""


@pytest.mark.parametrize("build", ["t.js", "t.lite.js", "t.full.js", "none.js"])
async def test_no_call_throws_before_the_script_or_without_it(page: Page, sink: Sink, build: str) -> None:
    if build == "none.js":
        sink.script_status = 404
    sink.build, sink.delay_s = build.replace("none", "t"), 0.3
    sink.head = f"<script>{CALLS} (async () => tracker)().then((it) => {{ window.awaited = it }})</script>"
    await page.goto(sink.url)
    assert await page.evaluate("!!window.awaited")
    if build == "none.js":
        await leave(page, sink)
        found = [call[:2] for call in sink.calls()]
        assert [call for call in found if call[0] in ("page", "ecommerce", "track")] == [
            ["page"],
            ["ecommerce", "productAdded"],
            ["track", "Called"],
        ]
        return
    await page.wait_for_function("tracker.loaded")
    await page.evaluate(f"() => {{ {CALLS} }}")
    expected = {"Called", "page"} | ({"Product Added"} if build == "t.full.js" else set())
    await until(lambda: expected <= {e.get("event") or e["type"] for e in sink.events()})


@pytest.mark.parametrize("build", ["t.js", "t.lite.js", "t.full.js", "none.js"])
async def test_a_call_that_is_no_json_costs_the_others_nothing(page: Page, sink: Sink, build: str) -> None:
    sink.build, sink.script_status = build.replace("none", "t"), 404 if build == "none.js" else 200
    bad = (
        "const a = {}; a.a = a; tracker.track('Circular', a); tracker.track('Big', {n: 10n});"
        " tracker.identify('u1', {get broken() { throw new Error('no') }})"
    )
    sink.head = f"<script>tracker.page(); {bad}; tracker.track('After')</script>"
    await page.goto(sink.url)
    if build == "none.js":
        await leave(page, sink)
        assert [call for call in sink.calls() if call] == [["page"], ["track", "After"]]
        assert len(sink.calls()) == 5  # as many as were made: how many have left is counted in them
        return
    await until(lambda: {"page", "After"} <= {e.get("event") or e["type"] for e in sink.events()})
    assert {e.get("event") for e in sink.events()} <= {None, "After", "Page Engaged"}


async def test_what_the_page_does_when_it_is_left_is_left_to_it(page: Page, sink: Sink) -> None:
    sink.script_status = 404
    sink.html = f"""<!doctype html><script>onpagehide = () => navigator.sendBeacon('/own', '{{"batch": []}}')</script>
        {sink.script()}<script>{STUB}</script><script>tracker.page()</script>"""
    await page.goto(sink.url)
    await leave(page, sink)
    assert [request["path"] for request in sink.requests] == ["/own"]


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_the_calls_of_a_prerendered_page_whose_script_is_late_are_sent_once_and_when_it_is_shown(
    sink: Sink, build: str
) -> None:
    sink.build, sink.delay_s = build, 1.2
    sink.pages["/start"] = """<!doctype html>
        <script type="speculationrules">{"prerender": [{"urls": ["never", "shown"], "eagerness": "immediate"}]}</script>
        <script>fetch("/gate").then(() => { location.href = "shown" })</script>"""
    sooner = "{const set = setTimeout; window.setTimeout = (f, ms) => set(f, ms === 5000 ? 300 : ms)}"
    calls = """tracker.track('Here'); const told = setInterval(() => {
        if (tracker.loaded) { clearInterval(told); fetch('/told?' + document.prerendering) }
    }, 20)"""
    sink.html = f"<!doctype html><script>{sooner}</script>{sink.script()}<script>{STUB}{calls}</script>"
    async with unattended(f"{sink.url}/start"):
        await until(lambda: len(sink.told) == 2)
        assert (sink.told, sink.requests) == (["true", "true"], [])
        sink.gate.set()
        await until(lambda: sink.events())
        await asyncio.sleep(SETTLED_S)
    assert [(e["event"], e["context"]["page"]["path"]) for e in sink.events()] == [("Here", "/shown")]
    assert sink.calls() == []
