"""/t.lite.js: what leaves, what is kept and what a no takes away."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page

from .conftest import Sink, ready, until
from .test_snippet_consent import SETTLED_S, stored

pytestmark = pytest.mark.browser


@pytest.fixture
def lite(sink: Sink) -> Sink:
    sink.build = "t.lite.js"
    return sink


def names(sink: Sink, status: int = 200) -> list[str]:
    return [event.get("event") or event["type"] for event in sink.events(status)]


@pytest.mark.parametrize("build", ["t.lite.js", "t.js"])
@pytest.mark.parametrize("choice", ["{analytics: false, ads: true}", "{ads: true}", "{}"])
async def test_a_choice_without_analytics_is_a_no(
    page: Page, context: BrowserContext, sink: Sink, choice: str, build: str
) -> None:
    sink.build, sink.attributes = build, 'data-consent="required"'
    sink.head = "<script>tracker.page()</script>"
    await ready(page, sink.url)
    await page.evaluate(f"tracker.consent({choice}); tracker.track('After')")
    await asyncio.sleep(SETTLED_S)
    assert (await stored(page, context), sink.requests) == ([], [])
    await page.evaluate("tracker.consent({analytics: true, ads: false}); tracker.track('Yes')")
    await until(lambda: sink.events())
    assert [(e["event"], e["context"]["consent"]) for e in sink.events()] == [
        ("Yes", {"analytics": True, "ads": False})
    ]
    await ready(page, f"{sink.url}/next")
    await page.evaluate("tracker.track('Next')")
    await until(lambda: len(sink.events()) == 3)
    assert sink.events()[2]["context"]["consent"] == {"analytics": True, "ads": False}


@pytest.mark.parametrize("choice", ["'denied'", "{analytics: 'denied'}", "0", "undefined"])
async def test_what_is_no_yes_is_a_no(page: Page, lite: Sink, choice: str) -> None:
    await ready(page, lite.url)
    await page.evaluate(f"tracker.consent({choice}); tracker.track('After')")
    await asyncio.sleep(SETTLED_S)
    assert lite.requests == []


async def test_a_yes_that_a_banner_repeats_on_every_page_drops_nothing(page: Page, lite: Sink) -> None:
    lite.attributes = 'data-consent="required"'
    lite.head = "<script>tracker.page(); tracker.ready(() => tracker.consent(true))</script>"
    for n in (1, 2):
        await ready(page, f"{lite.url}/{n}")
        await until(lambda n=n: len(lite.events()) == n)  # type: ignore[misc]


@pytest.mark.parametrize("required", [False, True])
async def test_a_no_takes_away_what_was_stored(page: Page, context: BrowserContext, lite: Sink, required: bool) -> None:
    lite.attributes = 'data-consent="required"' if required else ""
    await ready(page, lite.url)
    await page.evaluate(
        "localStorage.setItem('trk_q.1', 'left by t.js'); tracker.consent(true); tracker.identify('u1')"
    )
    await until(lambda: lite.events())
    assert len(await stored(page, context)) == 4
    await page.evaluate("tracker.optOut(); tracker.track('After'); tracker.reset()")
    assert await stored(page, context) == ([] if required else ["trk_consent"])
    await ready(page, f"{lite.url}/next")
    await page.evaluate("tracker.track('After')")
    await asyncio.sleep(SETTLED_S)
    assert await stored(page, context) == ([] if required else ["trk_consent"])
    assert names(lite) == ["identify"]


@pytest.mark.parametrize("build", ["t.lite.js"])
async def test_what_fails_after_a_no_is_not_sent_again(page: Page, sink: Sink, build: str) -> None:
    sink.build = build
    sink.answer = lambda: (503, {})
    await ready(page, sink.url)
    await page.evaluate(
        """async () => {
            const real = fetch;
            window.fetch = (...args) => {
                tracker.optOut(); tracker.consent(true); window.fetch = real;
                return real(...args);
            };
            tracker.track('In Flight');
        }"""
    )
    await until(lambda: sink.requests)
    await asyncio.sleep(1.5)
    await page.evaluate("tracker.track('After')")
    await until(lambda: len(sink.requests) > 1)
    assert names(sink, 503)[:2] == ["In Flight", "After"]


async def test_a_callback_is_called_whatever_becomes_of_the_call(page: Page, lite: Sink) -> None:
    for attributes, before in (('data-consent="required"', ""), ("", "tracker.optOut()"), ("", "")):
        lite.attributes = attributes
        await ready(page, lite.url)
        told = "new Promise(done => tracker.track('Clicked', {}, () => done(true)))"
        assert await page.evaluate(f"{before}; Promise.race([{told}, new Promise(done => setTimeout(done, 3000))])")
        assert await page.evaluate("tracker.track('Then').then(() => true)")


async def test_another_user_is_another_visitor(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    await page.evaluate("tracker.track('A'); for (const id of ['a', 'a', 'b', 'b']) tracker.identify(id)")
    await until(lambda: len(lite.events()) == 5)
    ids = [(e.get("userId"), e["anonymousId"]) for e in lite.events()]
    assert [user for user, _ in ids] == [None, "a", "a", "b", "b"]
    assert ids[0][1] == ids[1][1] == ids[2][1] != ids[3][1] == ids[4][1]


async def test_the_times_of_options_are_read_as_t_js_reads_them(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    times = ["'2026-01-02T03:04:05Z'", "1767323045000", "new Date(1767323045000)", "'never'"]
    await page.evaluate("; ".join(f"tracker.track('A', {{}}, {{timestamp: {time}}})" for time in times))
    await until(lambda: len(lite.events()) == 4)
    assert [e["timestamp"] for e in lite.events()] == ["2026-01-02T03:04:05.000Z"] * 3 + [None]


async def test_a_burst_arrives_whole_and_in_order(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    await page.evaluate("for (let i = 0; i < 3000; i++) tracker.track('Burst', {i, text: 'tiệm '.repeat(20)})")
    await until(lambda: len(lite.events()) >= 3000, 40)
    assert [e["properties"]["i"] for e in lite.events()] == list(range(3000))
    assert max(r["bytes"] for r in lite.requests) <= 64 << 10


async def test_more_than_beacons_take_is_not_lost_while_the_page_is_there(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    await page.evaluate(
        """() => {
            for (let i = 0; i < 400; i++) tracker.track('Many', {i, text: 'x'.repeat(400)});
            dispatchEvent(new Event('pagehide'));
        }"""
    )
    await until(lambda: len({e["properties"]["i"] for e in lite.events()}) == 400)
    assert len(lite.events()) == 400


@pytest.mark.parametrize("beacon", ["() => false", "() => { throw new Error('blocked') }", "undefined"])
async def test_without_beacons_what_waits_leaves_by_fetch(page: Page, lite: Sink, beacon: str) -> None:
    await ready(page, lite.url)
    await page.evaluate(f"navigator.sendBeacon = {beacon}; tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: lite.events())


async def test_what_is_in_flight_leaves_by_beacon_where_fetch_has_no_keepalive(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    await page.evaluate(
        """() => {
            delete Request.prototype.keepalive;
            window.fetch = () => new Promise(() => 0);  // as the page goes, so does its request
            tracker.track('In Flight');
            tracker.flush();
            location.href = 'about:blank';
        }"""
    )
    await until(lambda: lite.events())
    assert names(lite) == ["In Flight"]


@pytest.mark.parametrize("after", ["2", "date"])
async def test_nothing_comes_before_retry_after_and_all_of_it_then(page: Page, lite: Sink, after: str) -> None:
    at = time.time() + 2
    lite.answer = lambda: (429, {"Retry-After": formatdate(at + 1, usegmt=True) if after == "date" else after})
    await ready(page, lite.url)
    asked_at = time.time()
    await page.evaluate("tracker.track('First')")
    await until(lambda: lite.events(429))
    lite.answer = lambda: (200, {})
    await page.evaluate("tracker.track('Second'); tracker.flush(); dispatchEvent(new Event('online'))")
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    await until(lambda: len(lite.events()) == 2)
    assert time.time() >= (at if after == "date" else asked_at + 2)
    assert names(lite) == ["First", "Second"]
    assert lite.events()[0]["messageId"] == lite.events(429)[0]["messageId"]


async def test_5xx_is_tried_again_and_a_refusal_is_not(page: Page, lite: Sink) -> None:
    answers = [503, 500, 200, 400]
    lite.answer = lambda: (answers.pop(0) if answers else 200, {})
    await ready(page, lite.url)
    await page.evaluate("tracker.track('Kept')")
    await until(lambda: lite.events(200))
    await page.evaluate("tracker.track('Refused')")
    await until(lambda: lite.events(400))
    await page.evaluate("tracker.track('Next')")
    await until(lambda: len(lite.events()) == 2)
    assert names(lite) == ["Kept", "Next"]


async def test_while_the_endpoint_fails_a_hidden_page_keeps_its_events_and_one_that_is_left_tries(
    page: Page, lite: Sink
) -> None:
    lite.answer = lambda: (503, {})
    await ready(page, lite.url)
    await page.evaluate("tracker.track('Kept')")
    await until(lambda: lite.events(503))
    hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    await page.evaluate(f"{hide}; document.dispatchEvent(new Event('visibilitychange'))")
    await asyncio.sleep(0.3)
    assert len(lite.requests) == 1
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    await until(lambda: len(lite.requests) > 1, 0.6)


async def test_an_event_that_is_too_large_for_keepalive_does_not_hold_up_the_others(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    await page.evaluate("tracker.track('Large', {text: 'x'.repeat(70_000)}); tracker.track('Small')")
    await until(lambda: len(lite.events()) == 2)


async def test_the_queue_is_bounded(page: Page, lite: Sink) -> None:
    await ready(page, lite.url)
    found = await page.evaluate(
        """async () => {
            const seen = [];
            window.fetch = async (_, {body}) => { seen.push(...JSON.parse(body).batch); return new Response('{}') };
            for (let i = 0; i < 20050; i++) tracker.track('E', {i});
            while ((seen[seen.length - 1] || seen).properties?.i !== 20049) await new Promise(d => setTimeout(d, 50));
            return [seen.length, seen[0].properties.i];
        }"""
    )
    assert found == [20_000, 50]


@pytest.mark.parametrize(
    "storage",
    [
        'Object.defineProperty(document, "cookie", {get: refuse, set: refuse})',
        'Object.defineProperty(document, "cookie", {get: () => "", set: () => 0})',
    ],
    ids=["denied", "blocked"],
)
async def test_without_cookies_the_visitor_is_one_as_long_as_the_page(page: Page, lite: Sink, storage: str) -> None:
    lite.head = f"<script>const refuse = () => {{ throw new Error('blocked') }}; {storage}</script>"
    await ready(page, lite.url)
    await page.evaluate(
        "tracker.page(); tracker.identify('u1'); tracker.track('A'); tracker.reset(); tracker.track('B')"
    )
    await until(lambda: len(lite.events()) == 4)
    one, known, a, b = lite.events()
    assert one["anonymousId"] == known["anonymousId"] == a["anonymousId"] != b["anonymousId"]
    assert (a.get("userId"), b.get("userId")) == ("u1", None)
    await page.evaluate("tracker.optOut(); tracker.consent(true); tracker.track('C')")
    await until(lambda: len(lite.events()) == 5)


@pytest.mark.parametrize("storage", ["", "none"])
async def test_cookieless_is_without_cookies_until_a_yes(
    page: Page, context: BrowserContext, lite: Sink, storage: str
) -> None:
    lite.attributes = f'data-storage="{storage}"'
    await ready(page, lite.url)
    await page.evaluate("tracker.page(); tracker.track('Here')")
    await until(lambda: len(lite.events()) == 2)
    assert await stored(page, context) == ([] if storage else ["trk_anonymous_id"])
    await page.evaluate("tracker.consent(true)")
    [cookie] = [c for c in await context.cookies() if c["name"] == "trk_anonymous_id"]
    assert cookie["value"] == lite.events()[0]["anonymousId"] == lite.events()[1]["anonymousId"]


@pytest.mark.parametrize(
    ("html", "events"),
    [
        ('<script type="module" src="/t.lite.js" data-write-key="k"></script>', 1),
        ("<script>{code}</script>", 0),
        ('<script data-endpoint="{url}" data-write-key="k">{code}</script>', 1),
        ('<script src="/t.lite.js" data-write-key="k" data-endpoint="{url}/"></script>', 1),
    ],
    ids=["module", "inlined without a key", "inlined", "endpoint with a slash"],
)
async def test_it_starts_or_says_why_not_and_never_throws(page: Page, lite: Sink, html: str, events: int) -> None:
    from .conftest import STATIC

    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    code = (STATIC / "t.lite.js").read_text("utf-8")
    tag = html.replace("{url}", lite.url).replace("{code}", code)
    lite.html = f"<!doctype html><script>tracker = [[Date.now(), 'page']]</script>{tag}"
    await page.goto(lite.url)
    if events:
        await until(lambda: lite.events())
        assert lite.requests[0]["path"] == "/v1/batch"
    else:
        assert [text.split(":")[0] for text in said] == ["tracker"]


async def test_calls_that_the_build_does_not_have_are_a_word_in_the_console(page: Page, lite: Sink) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    calls = "tracker.group('g1'); tracker.ecommerce.productAdded({}); tracker.load('k'); tracker.track('Fine')"
    lite.head = f"<script>{calls}</script>"
    await ready(page, lite.url)
    await page.evaluate(calls)
    await until(lambda: names(lite) == ["Fine", "Fine"])
    assert [text.split(" ")[1] for text in said] == ["group", "ecommerce"] * 2


async def test_cookies_stand_on_the_widest_domain(page: Page, context: BrowserContext, lite: Sink) -> None:
    lite.url = lite.url.replace("127.0.0.1", "www.shop.localhost")
    await ready(page, lite.url)
    await page.evaluate("tracker.page(); tracker.identify('u1')")
    await until(lambda: len(lite.events()) == 2)
    found: list[Any] = [(c["name"], c["domain"]) for c in await context.cookies()]
    assert sorted(found) == [("trk_anonymous_id", ".shop.localhost"), ("trk_user_id", ".shop.localhost")]
    await ready(page, lite.url.replace("www.", "a.b."))
    await page.evaluate("tracker.track('There')")
    await until(lambda: len(lite.events()) == 3)
    assert lite.events()[2]["anonymousId"] == lite.events()[0]["anonymousId"]
    assert lite.events()[2]["userId"] == "u1"
    await page.evaluate("tracker.optOut()")
    assert [(c["name"], c["domain"]) for c in await context.cookies()] == [("trk_consent", ".shop.localhost")]


@pytest.mark.parametrize("build", ["t.lite.js", "t.js"])
@pytest.mark.parametrize("attributes", ["", 'data-consent="required"'], ids=["open", "held until a yes"])
async def test_events_that_wait_keep_who_made_them(page: Page, sink: Sink, build: str, attributes: str) -> None:
    sink.build, sink.attributes = build, attributes
    await ready(page, sink.url)
    await page.evaluate(
        "tracker.track('Nobody'); tracker.identify('u1'); tracker.track('One'); tracker.reset();"
        " tracker.track('Stranger'); tracker.identify('u2'); tracker.track('Two');"
        " tracker.identify('u3'); tracker.consent(true)"
    )
    await until(lambda: len(sink.events()) == 7)
    assert len(sink.requests) == 1
    made = [(e.get("event") or e["type"], e.get("userId"), e["anonymousId"]) for e in sink.events()]
    assert [(name, user) for name, user, _ in made] == [
        ("Nobody", None), ("identify", "u1"), ("One", "u1"), ("Stranger", None),
        ("identify", "u2"), ("Two", "u2"), ("identify", "u3"),
    ]  # fmt: skip
    ids = [anonymous for _, _, anonymous in made]
    assert ids[0] == ids[1] == ids[2] != ids[3] == ids[4] == ids[5] != ids[6]
