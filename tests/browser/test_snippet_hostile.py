"""Pages that have changed what the snippet stands on, or forbid it: what is called arrives as it was said, once, and
nothing throws into the page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
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
# What Prototype.js 1.6 makes of lists and dates.
PROTOTYPE = """
    Array.prototype.toJSON = function () { return "[" + this.map(String) + "]" };
    Date.prototype.toJSON = function () { return '"' + this.toISOString() + '"' };
"""
# MooTools 1.4: classes of its own under the browser's names, and what it adds to all lists, texts and functions.
MOOTOOLS = """
    window.Request = function Request() {}; window.Event = function Event() {}; window.Element = function Element() {};
    Array.from = item => item == null ? [] : Array.isArray(item) ? item : "length" in item && typeof item !== "string"
        ? Array.prototype.slice.call(item) : [item];
    for (const type of [Array, String, Function, Number]) {
        for (const name of ["contains", "clean", "each", "clone", "from", "include", "append", "pick"]) {
            type.prototype[name] = function () { return this };
        }
    }
    window.JSON = {stringify: JSON.stringify, parse: JSON.parse, encode: JSON.stringify, decode: JSON.parse, length: 2};
    Date.parse = text => new Date(text);
"""
# Prototype.js 1.6 again: what it puts in the place of the browser's functions of lists and objects.
ENUMERABLE = """{
    const find = Array.prototype.find, map = Array.prototype.map, reverse = Array.prototype.reverse;
    Array.prototype.each = Array.prototype.forEach;
    Array.prototype.find = Array.prototype.detect = function (f, at) { return find.call(this, f, at) };
    Array.prototype.map = Array.prototype.collect = function (f, at) { return map.call(this, f || (x => x), at) };
    Array.prototype.entries = Array.prototype.toArray = function () { return this.slice() };
    Array.prototype.reverse = function (inline) { return reverse.call(inline === false ? this.slice() : this) };
    Object.keys = object => { const keys = []; for (const key in object) keys.push(key); return keys };
    Object.values = object => Object.keys(object).map(key => object[key]);
}"""
# Zone.js, and before it core-js 2: promises and timers of their own, listeners that go through the library.
ZONE = """{
    const Native = Promise, set = setTimeout, add = EventTarget.prototype.addEventListener;
    class ZoneAwarePromise {
        constructor(how) { this.native = new Native(how) }
        then(yes, no) { return new ZoneAwarePromise(done => done(this.native.then(yes, no))) }
        catch(no) { return this.then(undefined, no) }
        static resolve(value) { return new ZoneAwarePromise(done => done(value)) }
    }
    window.Promise = ZoneAwarePromise;
    window.setTimeout = function (f, ms, ...args) { return set(() => f.apply(this, args), ms) };
    EventTarget.prototype.addEventListener = function (type, hear, how) {
        return add.call(this, type, function (event) { return hear.call(this, event) }, how);
    };
}"""
# Globals of old pages, which are the browser's names.
TAKEN = "var URL = '/api'; var Notification = 1; var status = 2; var Request = 'r'; var top = 3;"
FETCH_THROWS = "window.fetch = () => { throw new TypeError('patched') };"
NO_COOKIES = """Object.defineProperty(Document.prototype, 'cookie', {
    get() { throw new DOMException('denied', 'SecurityError') },
    set() { throw new DOMException('denied', 'SecurityError') },
});"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') };"


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "hostile",
    [POLLUTED, PATCHED_DATE, NO_COOKIES + FULL, MOOTOOLS, ENUMERABLE, ZONE, TAKEN],
    ids=[
        "Object.prototype",
        "Date",
        "cookies throw and storage is full",
        "MooTools",
        "Prototype.js",
        "Zone.js",
        "var URL",
    ],
)
async def test_what_was_called_arrives_as_it_was_said(page: Page, sink: Sink, build: str, hostile: str) -> None:
    sink.build = build
    # Before the tags, as a script of the page, so that `var` is a global.
    tags = f"{sink.script()}<script>{sink.stub()}</script>"
    calls = "<script>tracker.page('Home'); tracker.identify('u1', {plan: 'a'})</script>"
    sink.html = f"<!doctype html><script>{hostile}</script>{tags}{calls}"
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
async def test_where_prototype_js_makes_texts_of_lists_they_leave_as_lists(page: Page, sink: Sink, build: str) -> None:
    await page.add_init_script(PROTOTYPE)
    sink.build = build
    sink.answer = lambda: (503, {})
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Ordered', {products: [{sku: 'a', tags: ['x', 'y']}], note: null})")
    await until(lambda: sink.requests)
    sink.answer = lambda: (200, {})
    if build != "t.lite.js":  # it has waited in localStorage
        await ready(page, f"{sink.url}/next")
    await until(lambda: told(sink))
    [ordered] = told(sink)
    assert ordered["properties"] == {"products": [{"sku": "a", "tags": ["x", "y"]}], "note": None}
    if build != "t.lite.js":
        assert ordered["timestamp"].endswith("Z")
    assert await page.evaluate("JSON.stringify([1]) + Object.keys(Array.prototype)") == '"[1]"toJSON'


# What monitoring tools make of fetch and beacons.
WRAPPED = {
    "asks with a Request": "(url, how) => original(new Request(url, how).clone())",
    "reads the answer": "(url, how) => original(url, how).then(answer => answer.text().then(() => answer))",
    "is late": "async (url, how) => { await new Promise(r => setTimeout(r, 300)); return original(url, how) }",
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("fetch", WRAPPED.values(), ids=WRAPPED)
async def test_through_a_fetch_that_was_wrapped_each_event_comes_once(
    page: Page, sink: Sink, build: str, fetch: str
) -> None:
    await page.add_init_script(f"{{ const original = fetch; window.fetch = {fetch} }}")
    sink.build = build
    await ready(page, sink.url)
    await page.evaluate("tracker.track('First'); tracker.flush()")
    await until(lambda: told(sink))
    await page.evaluate("tracker.track('Second')")
    await until(lambda: len(told(sink)) >= 2)
    await asyncio.sleep(1.2)  # the first try again would have come
    await page.evaluate("tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: len(told(sink)) >= 3)
    await asyncio.sleep(SETTLED_S)
    assert names(sink) == ["First", "Second", "Last"]


INTO_BLANK = """<iframe id=f></iframe><script>{
    const inner = f.contentDocument;
    for (const old of new DOMParser().parseFromString(TEXT, "text/html").querySelectorAll("script")) {
        const script = inner.createElement("script");
        for (const {name, value} of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        inner.head.append(script);
    }
}</script>"""
FRAMES = {
    "sandboxed": '<iframe sandbox="allow-scripts" src="/frame"></iframe>',
    "sandboxed srcdoc": '<iframe sandbox="allow-scripts" srcdoc="{html}"></iframe>',
    "srcdoc": '<iframe srcdoc="{html}"></iframe>',
    "about:blank": INTO_BLANK,
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_in_a_frame_without_an_origin_or_address_events_leave_and_the_visitor_is_one(
    page: Page, sink: Sink, build: str, frame: str
) -> None:
    """As in the sandbox of Shopify's checkout: storage and cookies throw."""
    sink.build, sink.attributes = build, "data-spa"
    calls = "tracker.page('Framed'); tracker.identify('u1'); tracker.track('Here')"
    html = f"<!doctype html>{sink.script()}<script>{STUB}{calls}</script>"
    sink.pages["/frame"] = html
    frame = frame.replace("{html}", html.replace("&", "&amp;").replace('"', "&quot;"))
    sink.pages["/top"] = "<!doctype html>" + frame.replace("TEXT", json.dumps(html).replace("</", r"<\/"))
    await page.goto(f"{sink.url}/top")
    await until(lambda: len(told(sink)) >= 3)
    await asyncio.sleep(SETTLED_S)
    assert names(sink) == ["page", "identify", "Here"]
    assert len({e["anonymousId"] for e in told(sink)}) == 1
    assert told(sink)[2]["userId"] == "u1"


@pytest.mark.parametrize("build", BUILDS)
async def test_a_page_from_a_file_is_told(page: Page, sink: Sink, build: str, tmp_path: Path) -> None:
    sink.build = build
    html = f"<!doctype html>{sink.script()}<script>{STUB}tracker.page(); tracker.track('Here')</script>"
    (tmp_path / "page.html").write_text(html, "utf-8")
    await page.goto((tmp_path / "page.html").as_uri())
    await until(lambda: len(told(sink)) >= 2)
    assert names(sink) == ["page", "Here"]
    assert told(sink)[0]["properties"]["url"].startswith("file:///")


# A stand-in for Turbo: the head stays, the body is another one, whose scripts run again.
TURBO = """async path => {
    const answer = await fetch(path);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    history.pushState({}, "", path);
    document.body.replaceWith(page.body);
    for (const old of document.body.querySelectorAll("script")) {
        const script = document.createElement("script");
        for (const {name, value} of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        old.replaceWith(script);
    }
}"""


@pytest.mark.parametrize("build", ["t.js", "t.full.js"])
@pytest.mark.parametrize("place", ["head", "body"])
async def test_where_bodies_are_replaced_and_their_scripts_run_again_each_page_and_call_counts_once(
    page: Page, sink: Sink, build: str, place: str
) -> None:
    sink.build, sink.attributes = build, "data-spa"
    tags = f"{sink.script()}<script>{STUB}</script>"
    head, inner = (tags, "") if place == "head" else ("", tags)
    call = "<script>tracker.track('Body of ' + location.pathname)</script>"
    sink.html = f"<!doctype html><head>{head}</head><body>{inner}{call}<a data-track-event='Marked'>x</a></body>"
    await ready(page, f"{sink.url}/a")
    await page.evaluate("window.wrapped = history.pushState; 0")  # playwright would call a function
    for path in ("/b", "/c"):
        await page.evaluate(TURBO, path)
        await page.wait_for_timeout(200)
    assert await page.evaluate("wrapped === history.pushState")
    await page.click("a")
    await page.evaluate("tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: "Last" in names(sink))
    await asyncio.sleep(SETTLED_S)
    views = [e["properties"]["path"] for e in told(sink) if e["type"] == "page"]
    assert views == ["/a", "/b", "/c"]
    marked = ["Marked"] if build == "t.full.js" else []
    assert sorted(n for n in names(sink) if n != "page") == ["Body of /a", "Body of /b", "Body of /c", "Last", *marked]


@pytest.mark.parametrize("build", ["t.js", "t.full.js"])
async def test_where_a_document_was_written_anew_all_goes_on_and_leaves_with_the_page(
    page: Page, sink: Sink, build: str
) -> None:
    sink.build = build
    await ready(page, sink.url)
    tag = sink.script().replace("async", 'async onload="again = true"')
    html = f"<!doctype html>{tag}<script>{STUB}</script><b data-track-event=Marked>x</b><form><input name=size></form>"
    await page.evaluate("html => { document.open(); document.write(html); document.close() }", html)
    await page.wait_for_function("window.again")
    await page.evaluate("tracker.trackLink(document.querySelector('b'), 'Linked')")
    await page.click("b")
    await page.fill("input", "42")
    await page.evaluate("tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: "Last" in names(sink))
    await asyncio.sleep(SETTLED_S)
    extras = ["Form Abandoned", "Form Started", "Marked"] if build == "t.full.js" else []
    assert sorted(names(sink)) == [*extras[:2], "Last", "Linked", *extras[2:]]


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


@pytest.mark.parametrize(("build", "second"), [(build, second) for build in BUILDS for second in BUILDS])
async def test_of_two_tags_with_two_keys_the_first_has_the_page_and_each_event_comes_once(
    page: Page, sink: Sink, build: str, second: str
) -> None:
    sink.build = build
    other = sink.script().replace(sink.key, "k-another").replace('id="trk" async', "").replace(build, second)
    tags = f"{sink.script().replace('async', '')}<script>{STUB}</script>{other}<script>{STUB}</script>"
    sink.html = f"<!doctype html>{tags}<script>tracker.track('Once')</script>"
    await ready(page, sink.url)
    await until(lambda: told(sink))
    await page.goto("about:blank")
    await asyncio.sleep(SETTLED_S)
    assert [(r["body"]["writeKey"], [e["event"] for e in r["body"]["batch"]]) for r in sink.requests] == [
        (sink.key, ["Once"])
    ]


HOW = {
    **{how: how for how in ("", "async", "defer", 'type="module"', 'type="module" async')},
    "document.write": "<script>document.write(TEXT)</script>",
    "a tag manager": """<script>{
        const found = new DOMParser().parseFromString(TEXT, "text/html").querySelector("script");
        const script = document.createElement("script");
        for (const {name, value} of found.attributes) script.setAttribute(name, value);
        document.head.append(script);
    }</script>""",
    "a page with a base": "<base href='https://cdn.test/x/'>TAG",
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
async def test_it_starts_however_it_is_loaded(page: Page, sink: Sink, build: str, how: str) -> None:
    sink.build = build
    if "<" in how:
        text = json.dumps(sink.script()).replace("</", r"<\/")
        tag = how.replace("TAG", sink.script()).replace("TEXT", text)
    else:
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
