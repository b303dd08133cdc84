"""The snippet in a real browser against a small endpoint that records what arrives."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest
from playwright.async_api import BrowserContext, Page

from .conftest import Sink, ready, until

pytestmark = pytest.mark.browser


async def test_events_arrive_in_one_batch_as_plain_text_with_the_key_in_the_body(page: Page, sink: Sink) -> None:
    await ready(page, f"{sink.url}/ca-phe?utm_source=zalo&utm_medium=chat&utm_campaign=tet&q=1")
    await page.evaluate(
        """() => {
            tracker.page();
            tracker.track("Product Added", {product_id: "p1", price: 185000, name: "Cà phê"});
        }"""
    )
    await until(lambda: len(sink.events()) == 2)
    [request] = sink.requests
    assert request["path"] == "/v1/batch"
    assert request["headers"]["content-type"].startswith("text/plain")
    assert "cookie" not in request["headers"]
    body = request["body"]
    assert body["writeKey"] == "k-123456"
    viewed, added = body["batch"]
    assert viewed["type"] == "page"
    assert viewed["properties"]["path"] == "/ca-phe"
    assert (added["type"], added["event"]) == ("track", "Product Added")
    assert added["properties"] == {"product_id": "p1", "price": 185000, "name": "Cà phê"}
    assert UUID(added["anonymousId"]).version == 4
    assert UUID(added["messageId"]).version == 4
    assert added["anonymousId"] == viewed["anonymousId"]
    assert added["messageId"] != viewed["messageId"]
    context = added["context"]
    assert context["page"]["search"].startswith("?utm_source=zalo")
    assert context["page"]["title"] == "Tiệm"
    assert context["campaign"] == {"source": "zalo", "medium": "chat", "name": "tet"}
    assert context["locale"] == "vi-VN"
    assert context["timezone"] in ("Asia/Ho_Chi_Minh", "Asia/Saigon")  # ICU keeps the old name
    assert "userAgent" not in context
    sent, made = (datetime.fromisoformat(t) for t in (body["sentAt"], added["timestamp"]))
    assert 0 <= (sent - made).total_seconds() < 5


async def test_calls_made_before_the_script_has_loaded_keep_their_order_and_time(page: Page, sink: Sink) -> None:
    sink.delay_s = 0.7
    sink.head = "<script>window.held = tracker; tracker.identify('u1', {plan: 'a'}); tracker.track('Early')</script>"
    await ready(page, sink.url)
    await page.evaluate("held.track('Late')")  # through the stub's object, which a page may have kept
    await until(lambda: len(sink.events()) == 3)
    identify, early, late = sink.events()
    assert (identify["userId"], identify["traits"]) == ("u1", {"plan": "a"})
    assert (early["event"], late["event"]) == ("Early", "Late")
    assert early["userId"] == late["userId"] == "u1"
    waited = datetime.fromisoformat(late["timestamp"]) - datetime.fromisoformat(early["timestamp"])
    assert waited.total_seconds() >= 0.6


async def test_what_waits_leaves_by_beacon_when_the_page_is_left(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Last Words', {n: 1}); location.href = 'about:blank'")
    await until(lambda: sink.events())
    await asyncio.sleep(0.5)
    assert [e["event"] for e in sink.events()] == ["Last Words"]
    assert sink.requests[0]["headers"]["content-type"].startswith("text/plain")


async def test_a_burst_leaves_whole_in_chunks_below_the_cap_of_beacons(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    await page.evaluate("for (let i = 0; i < 1000; i++) tracker.track('Burst', {i, text: 'tiệm '.repeat(40)})")
    await until(lambda: len(sink.events()) >= 1000, 20)
    assert [e["properties"]["i"] for e in sink.events()] == list(range(1000))
    assert max(r["bytes"] for r in sink.requests) <= 60_000
    assert len(sink.requests) < 20


async def test_a_refusal_that_means_never_again_is_not_repeated(page: Page, sink: Sink) -> None:
    sink.answer = lambda: (401, {})
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Refused')")
    await until(lambda: sink.requests)
    await asyncio.sleep(1.6)
    assert len(sink.requests) == 1


async def test_what_failed_is_delivered_once_by_the_next_page_and_not_before_retry_after(
    page: Page, sink: Sink
) -> None:
    sink.answer = lambda: (503, {"Retry-After": "2"})
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Kept')")
    await until(lambda: sink.events(503))
    refused_at = time.monotonic()
    await page.goto("about:blank")
    sink.answer = lambda: (200, {})
    await ready(page, f"{sink.url}/next")
    await until(lambda: sink.events())
    assert time.monotonic() - refused_at >= 1.9
    # Left before the page has heard the answer, it would send it again.
    await page.wait_for_function("!Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    await ready(page, f"{sink.url}/after")
    await asyncio.sleep(0.6)
    assert [e["messageId"] for e in sink.events()] == [sink.events(503)[0]["messageId"]]
    assert sink.events()[0]["context"]["page"]["path"] == "/"
    assert await page.evaluate("Object.keys(localStorage).filter(k => k.startsWith('trk_q.'))") == []


async def test_the_visitor_is_known_over_pages_and_tabs_until_reset(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    await ready(page, sink.url)
    await page.evaluate("tracker.identify('u@example.com', {email: 'u@example.com'})")
    other = await context.new_page()
    await ready(other, f"{sink.url}/b")
    await other.evaluate("tracker.track('Second Tab')")
    await until(lambda: len(sink.events()) == 2)
    await page.evaluate("tracker.reset(); tracker.track('Stranger')")
    await other.evaluate("tracker.track('Also Stranger')")
    await until(lambda: len(sink.events()) == 4)
    known, second, stranger, also = sorted(sink.events(), key=lambda e: e["timestamp"])
    assert known["anonymousId"] == second["anonymousId"]
    assert known["userId"] == second["userId"] == "u@example.com"
    assert stranger["anonymousId"] == also["anonymousId"] != known["anonymousId"]
    assert "userId" not in stranger
    assert "userId" not in also


@pytest.mark.parametrize(
    "storage",
    [
        'Object.defineProperty(window, "localStorage", {get: refuse})',
        "for (const name of ['getItem', 'setItem', 'removeItem', 'key']) Storage.prototype[name] = refuse",
        'Object.defineProperty(window, "localStorage", {value: null})',
    ],
    ids=["denied", "broken", "missing"],
)
async def test_nothing_throws_into_the_page_when_storage_cookies_fetch_and_beacon_are_blocked(
    page: Page, sink: Sink, storage: str
) -> None:
    sink.head = f"<script>const refuse = () => {{ throw new Error('blocked') }}; {storage};</script>"
    sink.head += """<script>
        Object.defineProperty(document, "cookie", {get: refuse, set: refuse});
        window.fetch = refuse; navigator.sendBeacon = refuse;
        Object.defineProperty(window, "crypto", {value: undefined});
        tracker.page();
    </script>"""
    await ready(page, sink.url)
    circular = (
        "const a = {}; a.a = a; tracker.track('Circular', a); tracker.track('Big', {n: 1n}); tracker.identify(); "
    )
    await page.evaluate(f"() => {{ {circular} tracker.track(); tracker.track('Fine', {{}}, {{timestamp: 'never'}}) }}")
    assert UUID(await page.evaluate("tracker.user().anonymousId()")).version == 4
    first = await page.evaluate("tracker.user().anonymousId()")
    assert await page.evaluate("tracker.user().anonymousId()") == first
    await page.evaluate("dispatchEvent(new Event('pagehide')); dispatchEvent(new Event('online'))")
    await page.goto("about:blank")


async def test_a_page_written_for_segment_goes_on_unchanged(page: Page, sink: Sink) -> None:
    sink.attributes = 'data-global="analytics"'
    sink.head = """<script>
        var analytics = window.analytics = [];  // what Segment's snippet leaves behind
        analytics.push(["page", {__t: "bpc", u: "x"}]);
        analytics.push(["track", "Signed Up", {plan: "pro"}, {context: {app: {name: "shop"}}},
            function () { window.called = true }]);
        analytics.push(["group", "g1", {name: "Tiệm"}]);
        analytics.push(["page", "Docs", "Start", {a: 1}]);
        analytics.push(["alias", "new-id"]);
        analytics.push(["__proto__", "x"]);
    </script>"""
    await page.goto(sink.url)
    await until(lambda: len(sink.events()) == 5)
    viewed, signed_up, group, docs, alias = sink.events()
    assert "__t" not in viewed["properties"]
    assert (signed_up["event"], signed_up["properties"]) == ("Signed Up", {"plan": "pro"})
    assert signed_up["context"]["app"] == {"name": "shop"}
    assert signed_up["context"]["page"]["path"] == "/"
    assert (group["groupId"], group["traits"]) == ("g1", {"name": "Tiệm"})
    assert (docs["category"], docs["name"], docs["properties"]["a"]) == ("Docs", "Start", 1)
    assert (alias["userId"], alias["previousId"]) == ("new-id", viewed["anonymousId"])
    analytics = (
        "analytics.track('Now', {}, {}, () => { window.done = true }).then(() => analytics.identify(null, {a: 1}))"
    )
    await page.evaluate(analytics)
    await until(lambda: len(sink.events()) == 7)
    assert sink.events()[6]["traits"] == {"a": 1}
    assert await page.evaluate("window.done") is True
    assert await page.evaluate("window.called") is True


async def test_inside_a_single_page_application_the_referrer_is_the_page_before(page: Page, sink: Sink) -> None:
    await page.goto(f"{sink.url}/from")
    await page.evaluate(f"location.href = '{sink.url}/a'")
    await page.wait_for_url("**/a")
    await page.wait_for_function("window.tracker && tracker.loaded")
    await page.evaluate("tracker.page(); history.pushState({}, '', '/b'); tracker.page(); tracker.track('There')")
    await until(lambda: len(sink.events()) == 3)
    a, b, there = sink.events()
    assert a["properties"]["referrer"] == f"{sink.url}/from"
    assert b["properties"]["referrer"] == there["context"]["page"]["referrer"] == f"{sink.url}/a"


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_a_request_without_an_answer_is_given_up_and_tried_again(page: Page, sink: Sink, build: str) -> None:
    sink.build = build
    sink.head = """<script>{
        const timeout = AbortSignal.timeout;
        AbortSignal.timeout = ms => timeout.call(AbortSignal, ms === 30000 ? 300 : ms);
    }</script>"""
    await page.route("**/v1/batch", lambda _: asyncio.sleep(60), times=1)
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Patient')")
    await until(lambda: sink.events(), 10)


@pytest.mark.parametrize("answered", [True, False], ids=["answered while it was away", "never answered"])
async def test_a_request_that_was_in_flight_when_the_page_was_left_is_tried_again_when_it_comes_back_without_an_answer(
    page: Page, sink: Sink, answered: bool
) -> None:
    await ready(page, sink.url)
    sink.answer_gate.clear()
    await page.evaluate(
        "addEventListener('pageshow', e => { window.restored = e.persisted }); tracker.track('Left'); tracker.flush()"
    )
    await until(lambda: sink.requests)
    await page.goto(f"{sink.url}/elsewhere")
    if answered:
        sink.answer_gate.set()
        await asyncio.sleep(1)
    await page.go_back(wait_until="commit")
    await page.wait_for_function("window.restored === true")
    await page.evaluate("tracker.track('Back')")
    await until(lambda: "Back" in [e["event"] for e in sink.events()], 10)
    await asyncio.sleep(1)
    left = [e["messageId"] for e in sink.events() if e["event"] == "Left"]
    assert (len(left), len(set(left))) == (1 if answered else 2, 1)


async def test_a_page_that_comes_back_is_viewed_with_what_was_said_of_it_but_as_a_view_of_its_own(
    page: Page, sink: Sink
) -> None:
    await ready(page, sink.url)
    await page.evaluate(
        """() => {
            addEventListener('pageshow', e => { window.restored = e.persisted });
            tracker.on('page', (...args) => { window.heard = args });
            tracker.page('Docs', 'Install', {version: 2, timestamp: 'of a document'}, {
                messageId: 'm-1', timestamp: '2026-01-02T03:04:05Z', context: {app: 'shop'}, integrations: {Ads: false},
            }, () => { window.called = (window.called || 0) + 1 });
        }"""
    )
    await page.goto(f"{sink.url}/elsewhere")
    await page.go_back(wait_until="commit")
    await page.wait_for_function("window.restored === true")
    await until(lambda: len(sink.events()) == 2)
    first, again = sink.events()
    assert (first["messageId"], first["timestamp"]) == ("m-1", "2026-01-02T03:04:05.000Z")
    assert UUID(again["messageId"]).version == 4
    assert abs(datetime.fromisoformat(again["timestamp"]).timestamp() - time.time()) < 60
    for name in ("type", "category", "name", "properties", "integrations"):
        assert again[name] == first[name]
    assert again["context"]["app"] == "shop"
    assert await page.evaluate("[heard.slice(0, 3), window.called]") == [
        ["Docs", "Install", {"version": 2, "timestamp": "of a document"}], 1,
    ]  # fmt: skip


async def test_retry_after_may_be_a_date(page: Page, sink: Sink) -> None:
    sink.answer = lambda: (503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=4), usegmt=True)})
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Kept')")
    await until(lambda: sink.requests)
    refused_at = time.monotonic()
    sink.answer = lambda: (200, {})
    await until(lambda: sink.events())
    assert time.monotonic() - refused_at >= 2.9  # an own first try again comes after a second at most


async def test_of_a_queue_that_does_not_fit_in_storage_nothing_is_lost_when_the_tab_was_only_hidden(
    page: Page, sink: Sink
) -> None:
    sink.answer = lambda: (503, {"Retry-After": "3"})
    await ready(page, sink.url)
    await page.evaluate("for (let i = 0; i < 60; i++) tracker.track('Large', {i, text: 'x'.repeat(25000)})")
    await until(lambda: sink.requests)
    await page.wait_for_function("Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    await page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", {value: true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
            delete document.hidden;
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    sink.answer = lambda: (200, {})
    await until(lambda: len(sink.events()) >= 60)
    assert {e["properties"]["i"] for e in sink.events()} == set(range(60))


async def test_the_queues_of_all_pages_together_stay_within_a_megabyte(page: Page, sink: Sink) -> None:
    sink.answer = lambda: (503, {"Retry-After": "60"})
    sink.head = """<script>
        localStorage["trk_q.other"] = JSON.stringify({t: Date.now(), k: "k-123456", n: 0, q: ["x".repeat(900000)]});
    </script>"""
    await ready(page, sink.url)
    await page.evaluate("for (let i = 0; i < 10; i++) tracker.track('Large', {i, text: 'x'.repeat(25000)})")
    await until(lambda: sink.requests)
    await page.wait_for_function("Object.keys(localStorage).filter(k => k.startsWith('trk_q.')).length == 2")
    lengths = "Object.keys(localStorage).filter(k => k.startsWith('trk_q.')).map(k => localStorage[k].length)"
    assert 950_000 < sum(await page.evaluate(lengths)) < 1_010_000


async def test_queues_of_the_future_are_taken_over_and_those_of_a_key_of_the_past_are_dropped(
    page: Page, sink: Sink
) -> None:
    sink.head = """<script>if (!localStorage.trk_once) {
        const day = 86400000, event = JSON.stringify({type: "track", event: "Future", messageId: "m1"});
        const put = (name, t, k) => { localStorage["trk_q." + name] = JSON.stringify({t, k, n: 0, q: [event]}) };
        put("future", Date.now() + 400 * day, "k-123456");
        put("past", Date.now() - 8 * day, "another");
        put("present", Date.now() - day, "another");
        localStorage["trk_q.broken"] = "{";
    }</script>"""
    await ready(page, sink.url)
    await until(lambda: sink.events())
    assert [e["event"] for e in sink.events()] == ["Future"]
    await page.wait_for_function(
        "Object.keys(localStorage).filter(k => k.startsWith('trk_q.')).join() === 'trk_q.present'"
    )


async def test_a_cookie_that_cannot_be_read_stops_no_event_and_is_replaced(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    await context.add_cookies([{"name": f"trk_{n}", "value": "%7Bbroken", "url": sink.url} for n in ("first", "last")])
    await ready(page, f"{sink.url}/landing")
    await page.evaluate("tracker.page(); tracker.identify('u1')")
    await until(lambda: len(sink.events()) == 2)
    assert sink.events()[1]["context"]["attribution"]["first"]["path"] == "/landing"
    await ready(page, f"{sink.url}/next")
    await page.evaluate("tracker.page()")
    await until(lambda: len(sink.events()) == 3)
    assert sink.events()[2]["context"]["attribution"]["first"]["path"] == "/landing"


async def test_cookies_stay_small_also_where_what_they_say_is_written_in_vietnamese(page: Page, sink: Sink) -> None:
    await ready(page, f"{sink.url}?" + "&".join(f"utm_{name}={'ờ' * 100}" for name in ("campaign", "term", "content")))
    await page.evaluate("tracker.page()")
    await until(lambda: sink.events())
    assert len(await page.evaluate("document.cookie")) < 1500
    await ready(page, f"{sink.url}/next")
    await page.evaluate("tracker.page()")
    await until(lambda: len(sink.events()) == 2)
    assert sink.events()[1]["context"]["attribution"]["first"]["campaign"]["name"] == "ờ" * 100
