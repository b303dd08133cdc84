"""What real sites do to a snippet: two of them on a page, odd arguments, clocks set back, full storage, dialogs."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import ConsoleMessage, Dialog, Page

from .conftest import STUB, Sink, ready, until

pytestmark = pytest.mark.browser

SETTLED_S = 0.7
BUILDS = ["t.js", "t.lite.js"]
HIDE = "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
SHOW = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'));"


def names(sink: Sink) -> list[str]:
    return [str(e.get("event") or e["type"]) for e in sink.events()]


def at(sink: Sink, host: str, path: str = "/") -> str:
    return f"http://{host}:{sink.url.rpartition(':')[2]}{path}"


@pytest.mark.parametrize("build", [*BUILDS, "t.full.js"])
async def test_two_sites_on_one_page_have_their_own_calls_under_their_own_names(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build, sink.attributes = build, "data-spa data-auto=''"
    # As `tracker snippet --global partner` prints them for another site.
    other = sink.script().replace(sink.key, "k-partner").replace('id="trk"', 'id="trk_partner" data-global="partner"')
    stub = sink.stub().replace("self.tracker", "self.partner").replace(".trk.", ".trk_partner.")
    sink.head = f"{other}<script>{stub}; partner.track('Theirs')</script><script>tracker.track('Ours')</script>"
    await ready(page, f"{sink.url}/a")
    await page.wait_for_function("partner.loaded")
    await page.evaluate("partner.track('Later'); tracker.track('Last'); history.pushState({}, '', '/b')")

    def of(key: str) -> list[str]:
        batches = [r["body"] for r in sink.requests if r["body"]["writeKey"] == key]
        return sorted(e.get("event") or e["properties"]["path"] for body in batches for e in body["batch"])

    views = [] if build == "t.lite.js" else ["/a", "/b"]
    await until(lambda: len(of(sink.key)) + len(of("k-partner")) >= 4 + 2 * len(views))
    await asyncio.sleep(SETTLED_S)
    assert of(sink.key) == [*views, "Last", "Ours"]
    assert of("k-partner") == [*views, "Later", "Theirs"]


NO_JSON = {
    "a bigint": "{n: 1n}",
    "itself": "(() => { const a = {}; a.a = a; return a })()",
    "a toJSON that throws": "{at: {toJSON() { throw new Error('no') }}}",
    "a getter that throws": "{get price() { throw new Error('no') }}",
    "an element that a framework has marked": "Object.assign(document.createElement('b'), {__react: document})",
}
ODD = """{
    nan: NaN, endless: -Infinity, call() {}, none: undefined, symbol: Symbol('s'), element: document.body,
    map: new Map([[1, 2]]), never: new Date(NaN), bytes: new Uint8Array(2), text: '\\ud800 \\u2028 </script> ế',
    own: {toJSON: () => 'said'}, bare: Object.assign(Object.create(null), {a: 1}), list: [undefined, () => 1, 1],
}"""


@pytest.mark.parametrize("build", BUILDS)
async def test_an_argument_that_is_no_json_costs_its_own_event_and_says_so(page: Page, sink: Sink, build: str) -> None:
    words: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        words.append(message.text)

    page.on("console", hear)
    await page.add_init_script("document.a = document")  # an element's own properties are what JSON has of it
    sink.build = build
    await ready(page, sink.url)
    for n, odd in enumerate(NO_JSON.values()):
        await page.evaluate(f"() => {{ tracker.track('Lost {n}', {odd}); tracker.track('Next {n}') }}")
    await page.evaluate(f"() => {{ tracker.track('Odd', {ODD}) }}")
    await until(lambda: "Odd" in names(sink))
    assert names(sink) == [*(f"Next {n}" for n in range(len(NO_JSON))), "Odd"]
    odd = sink.events()[-1]["properties"]
    assert odd.pop("text").startswith(("\ufffd", "\ud800"))
    assert odd == {
        "nan": None, "endless": None, "element": {}, "map": {}, "never": None, "bytes": {"0": 0, "1": 0}, "own": "said",
        "bare": {"a": 1}, "list": [None, None, 1],
    }  # fmt: skip
    assert len([word for word in words if word.startswith("tracker: track")]) == len(NO_JSON)


async def test_an_event_that_is_too_large_for_a_request_is_a_word_in_the_console_and_the_others_leave(
    page: Page, sink: Sink
) -> None:
    words: list[str] = []
    page.on("console", lambda message: words.append(message.text))
    await ready(page, sink.url)
    await page.evaluate(
        "for (const n of [70_000, 50_000, 1, 50_000]) tracker.track('Of ' + n, {text: 'x'.repeat(n)}); tracker.flush()"
    )
    await until(lambda: len(sink.events()) == 3)
    assert names(sink) == ["Of 50000", "Of 1", "Of 50000"]
    assert len([word for word in words if "dropped: an event of 70" in word]) == 1


SET_BACK = """{
    const Real = Date;
    window.back = 0;
    window.Date = class extends Real {
        constructor(...args) { args.length ? super(...args) : super(Real.now() - back) }
        static now() { return Real.now() - back }
    };
}"""


@pytest.mark.parametrize("build", [*BUILDS, "t.full.js"])
@pytest.mark.parametrize("after", ["", "1"], ids=["backoff", "Retry-After"])
async def test_a_clock_that_is_set_back_an_hour_does_not_hold_up_what_waits_to_be_tried_again(
    page: Page, sink: Sink, build: str, after: str
) -> None:
    await page.add_init_script(SET_BACK)
    sink.build = build
    sink.answer = lambda: (503, {"Retry-After": after} if after else {})
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Before')")
    await until(lambda: sink.requests)
    sink.answer = lambda: (200, {})
    await page.evaluate("back = 3600000; tracker.track('After')")
    await until(lambda: len(sink.events()) == 2, 10)
    assert names(sink) == ["Before", "After"]
    assert len({e["anonymousId"] for e in sink.events()}) == 1


async def test_nobody_reads_a_page_that_was_opened_behind_another_or_while_the_clock_went_back(
    page: Page, sink: Sink
) -> None:
    sink.build, sink.attributes = "t.full.js", "data-spa"
    await page.add_init_script(SET_BACK + HIDE)
    await ready(page, sink.url)
    await until(lambda: "Page Engaged" in names(sink))
    await asyncio.sleep(1.5)
    await page.evaluate("dispatchEvent(new Event('pagehide')); tracker.track('Left')")
    await until(lambda: "Left" in names(sink))
    assert sum(e["properties"]["engaged_ms"] for e in sink.events() if e.get("event") == "Page Engaged") == 0
    # It is looked at, and then the clock is set back: without a sign of anybody nobody is there.
    await page.evaluate(f"{SHOW} back = 3600000")
    await asyncio.sleep(2.5)
    await page.evaluate("tracker.track('Then'); location.href = 'about:blank'")
    await until(lambda: "Then" in names(sink))
    await asyncio.sleep(SETTLED_S)
    assert sum(e["properties"]["engaged_ms"] for e in sink.events() if e.get("event") == "Page Engaged") < 1500


@pytest.mark.parametrize("build", BUILDS)
async def test_a_page_that_is_hidden_at_once_after_loading_has_told_everything_once(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build = build
    await page.add_init_script(HIDE)
    sink.head = "<script>tracker.page(); tracker.track('Early')</script>"
    await ready(page, sink.url)
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange')); tracker.track('Behind')")
    await until(lambda: len(sink.events()) >= 3, 10)
    await page.evaluate(f"{SHOW} {HIDE} document.dispatchEvent(new Event('visibilitychange'))")
    await page.evaluate("dispatchEvent(new Event('pagehide'))")
    await asyncio.sleep(SETTLED_S)
    assert names(sink) == ["page", "Early", "Behind"]


async def test_when_the_visitor_stays_at_a_question_before_leaving_nothing_ends(page: Page, sink: Sink) -> None:
    sink.build = "t.full.js"
    sink.head = "<script>tracker.page()</script>"
    sink.body = '<form><input name="size"></form><a id="go" href="/elsewhere">x</a>'
    await ready(page, sink.url)
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    await page.evaluate("() => { onbeforeunload = event => { event.preventDefault(); event.returnValue = 'x' } }")
    await page.fill("input", "42")
    await page.click("#go", no_wait_after=True)
    await until(lambda: asked)
    await page.evaluate("tracker.track('Stayed')")
    await until(lambda: "Stayed" in names(sink))
    await asyncio.sleep(SETTLED_S)
    assert asked == ["beforeunload"]
    assert [name for name in names(sink) if name != "Page Engaged"] == ["page", "Form Started", "Stayed"]


WORKER = """
    let refused = 0;
    addEventListener("install", () => skipWaiting());
    addEventListener("activate", event => event.waitUntil(clients.claim()));
    addEventListener("fetch", event => {
        if (event.request.method === "POST" && refused++ < 2) {
            event.respondWith(refused % 2 ? Response.error() : new Response("offline", {status: 503}));
        }
    });
"""


@pytest.mark.parametrize("build", BUILDS)
async def test_a_worker_of_the_page_that_answers_with_errors_loses_nothing(page: Page, sink: Sink, build: str) -> None:
    sink.build, sink.worker = build, WORKER
    await ready(page, sink.url)
    await page.evaluate(
        """() => new Promise(resolve => {
            navigator.serviceWorker.addEventListener('controllerchange', resolve);
            navigator.serviceWorker.register('/sw.js');
        })"""
    )
    await page.evaluate("tracker.track('Patient')")
    await until(lambda: sink.events())
    await asyncio.sleep(SETTLED_S)
    assert names(sink) == ["Patient"]


async def test_where_storage_has_no_room_what_failed_waits_in_the_page(page: Page, sink: Sink) -> None:
    sink.head = """<script>
        let chunk = "x".repeat(1 << 20);
        for (let n = 0; chunk; n++) {
            try { localStorage["of the page " + n] = chunk } catch (e) { chunk = chunk.slice(chunk.length / 2 + 0.5) }
        }
    </script>"""
    sink.answer = lambda: (503, {})
    await ready(page, sink.url)
    await page.evaluate("for (let i = 0; i < 20; i++) tracker.track('Of ' + i, {text: 'x'.repeat(100)})")
    await until(lambda: sink.requests)
    await page.evaluate(f"{HIDE} document.dispatchEvent(new Event('visibilitychange')); {SHOW}")
    sink.answer = lambda: (200, {})
    await until(lambda: len(sink.events()) == 20)
    assert len(await page.evaluate("localStorage['of the page 0']")) == 1 << 20


ODD_COOKIES = [
    "percent=%E0%A4%A; Path=/", 'quoted="a; Path=/', "tên=giá trị; Path=/", "noname; Path=/", "=; Path=/",
    f"long={'x' * 4000}; Path=/", "xtrk_anonymous_id=other; Path=/", "trk_visit=~; Path=/", "trk_user_id=%; Path=/",
    "trk_anonymous_id=%zz; Path=/", "trk_consent=maybe; Path=/", "trk_first=[]; Path=/", "trk_last=7; Path=/",
]  # fmt: skip


@pytest.mark.parametrize("build", BUILDS)
async def test_cookies_of_any_kind_stop_no_event_and_broken_ones_of_ours_are_replaced(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build = build
    cookies = json.dumps(ODD_COOKIES, ensure_ascii=False)
    sink.html = f"""<!doctype html><meta charset="utf-8">
        <script>if (!/percent/.test(document.cookie)) for (const each of {cookies}) document.cookie = each</script>
        {sink.script()}<script>{STUB}; tracker.page(); tracker.track('A')</script>"""
    for n in (1, 2):
        await page.goto(f"{sink.url}/{n}")
        await until(lambda n=n: len(sink.events()) == 2 * n)  # type: ignore[misc]
    assert len({e["anonymousId"] for e in sink.events()}) == 1
    assert UUID(sink.events()[0]["anonymousId"]).version == 4
    assert [e.get("userId") for e in sink.events()] == [None] * 4
    theirs = await page.evaluate("document.cookie")
    assert "percent=%E0%A4%A" in theirs
    assert "xtrk_anonymous_id=other" in theirs


async def test_with_a_base_and_relative_addresses_each_route_is_a_view_of_where_it_leads(
    page: Page, sink: Sink
) -> None:
    sink.attributes = "data-spa"
    tags = f"{sink.script()}<script>{STUB}</script>"
    sink.html = f'<!doctype html><base href="/shop/">{tags}<a id="go" href="#part">x</a>'
    await ready(page, f"{sink.url}/entry")
    await until(lambda: sink.events())
    for n, step in enumerate(("history.pushState({}, '', 'a')", "history.pushState({}, '', '?q=1')"), 2):
        await page.evaluate(step)
        await until(lambda n=n: len(sink.events()) == n)  # type: ignore[misc]
    await page.evaluate("history.replaceState({}, '', location.href); history.pushState({}, '', '')")
    await page.evaluate("history.pushState({n: 1}, '', location.href)")
    await asyncio.sleep(SETTLED_S)
    found = [e["properties"]["path"] + e["properties"]["search"] for e in sink.events()]
    assert found == ["/entry", "/shop/a", "/shop/?q=1"]


@pytest.mark.parametrize("build", BUILDS)
async def test_on_plain_http_ids_are_as_random_as_elsewhere(page: Page, sink: Sink, build: str) -> None:
    sink.build = build
    await ready(page, at(sink, "shop.vn"))
    assert await page.evaluate("[isSecureContext, typeof crypto.randomUUID]") == [False, "undefined"]
    await page.evaluate("for (let i = 0; i < 1000; i++) tracker.track('A', {i})")
    await until(lambda: len(sink.events()) == 1000)
    ids = {e["messageId"] for e in sink.events()} | {sink.events()[0]["anonymousId"]}
    assert len(ids) == 1001
    assert {(UUID(i).version, UUID(i).variant) for i in ids} == {(4, "specified in RFC 4122")}


async def test_options_and_callbacks_stand_where_segments_do(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    await page.evaluate(
        """() => {
            window.done = [];
            const heard = name => () => done.push(name);
            tracker.ready(heard('ready'));
            tracker.track('A', heard('track 2'));
            tracker.track('A', {n: 1}, heard('track 3'));
            tracker.track('A', {n: 1}, {}, heard('track 4'));
            tracker.page(heard('page 1'));
            tracker.page('Home', heard('page 2'));
            tracker.page('Docs', 'Home', heard('page 3'));
            tracker.page('Docs', 'Home', {}, {}, heard('page 5'));
            tracker.identify('u1', heard('identify 2'));
            tracker.identify({a: 1}, heard('identify traits'));
            tracker.identify('u1', {a: 1}, {}, heard('identify 4'));
            tracker.group('g1', {plan: 'a'}, {}, heard('group 4'));
            tracker.group({plan: 'b'}, heard('group traits'));
            tracker.alias('u2', heard('alias 2'));
            tracker.alias('u2', 'u1', {}, heard('alias 4'));
            const options = (timestamp) => ({
                timestamp, anonymousId: 'given', integrations: {All: false}, context: {ip: '1.2.3.4', locale: 'ja'},
            });
            for (const at of [new Date(1e12), 1e12, '2001-09-09T01:46:40Z']) tracker.track('B', {}, options(at));
        }"""
    )
    await until(lambda: len(sink.events()) == 17)
    done = await page.evaluate("done")
    assert (len(done), len(set(done))) == (15, 15)
    groups: list[Any] = [(e["groupId"], e["traits"]) for e in sink.events() if e["type"] == "group"]
    assert groups == [("g1", {"plan": "a"}), ("g1", {"plan": "b"})]
    for event in sink.events()[-3:]:
        assert event["timestamp"] == "2001-09-09T01:46:40.000Z"
        assert (event["anonymousId"], event["integrations"]) == ("given", {"All": False})
        assert (event["context"]["ip"], event["context"]["locale"]) == ("1.2.3.4", "ja")
        assert event["context"]["page"]["path"] == "/"
