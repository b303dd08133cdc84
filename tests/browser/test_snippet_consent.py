"""Consent, in a real browser: before it nothing is stored and nothing is sent, shown by looking at both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route

from .conftest import Log, Sink, own_clock, ready, until

pytestmark = pytest.mark.browser

SETTLED_S = 0.7


async def stored(page: Page, context: BrowserContext) -> list[str]:
    """Names of everything that the page has stored."""
    keys = await page.evaluate(
        """async () => [...Object.keys(localStorage), ...Object.keys(sessionStorage),
                         ...(await indexedDB.databases()).map(each => each.name), ...await caches.keys()]"""
    )
    return sorted({*keys, *(cookie["name"] for cookie in await context.cookies())})


@pytest.mark.parametrize("build", ["t.js", "t.full.js", "t.lite.js"])
async def test_before_consent_nothing_is_stored_or_sent_and_after_it_everything_is(
    page: Page, context: BrowserContext, sink: Sink, build: str
) -> None:
    sink.build, sink.attributes = build, 'data-consent="required"'
    sink.head = "<script>tracker.page(); tracker.identify('u1', {plan: 'a'})</script>"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Before', {n: 1}); dispatchEvent(new Event('pagehide')); tracker.flush()")
    await page.mouse.wheel(0, 500)
    await asyncio.sleep(SETTLED_S)
    assert await stored(page, context) == []
    assert (asked, sink.requests) == ([], [])
    await page.evaluate("tracker.consent(true)")

    def named() -> list[dict[str, Any]]:
        return [e for e in sink.events() if e.get("event") != "Page Engaged"]

    await until(lambda: len(named()) == 3)
    assert [e.get("event") or e["type"] for e in named()] == ["page", "identify", "Before"]
    assert {e["context"]["consent"] for e in named()} == {"granted"}
    assert len({e["anonymousId"] for e in named()}) == 1
    cookies = {cookie["name"]: cookie["value"] for cookie in await context.cookies()}
    assert cookies["trk_anonymous_id"] == named()[0]["anonymousId"]
    assert cookies["trk_consent"] == "true"
    # The next page knows.
    sink.head = ""
    await ready(page, f"{sink.url}/next")
    await page.evaluate("tracker.track('Next')")
    await until(lambda: len(named()) == 4)
    assert named()[3]["anonymousId"] == named()[0]["anonymousId"]
    assert named()[3]["userId"] == "u1"


async def test_a_no_drops_what_waited_and_leaves_nothing_behind(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    sink.build, sink.attributes = "t.full.js", 'data-consent="required"'
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Before'); tracker.consent(false); tracker.track('After')")
    await asyncio.sleep(SETTLED_S)
    assert (await stored(page, context), sink.requests) == ([], [])
    await page.evaluate("tracker.consent({analytics: false, ads: true}); tracker.track('Still')")
    await asyncio.sleep(SETTLED_S)
    assert (await stored(page, context), sink.requests) == ([], [])
    await page.evaluate("tracker.consent({analytics: true, ads: false}); tracker.track('Yes')")
    await until(lambda: sink.events())
    assert [(e["event"], e["context"]["consent"]) for e in sink.events()] == [
        ("Yes", {"analytics": True, "ads": False})
    ]
    # A consent that is taken back takes everything along.
    await page.evaluate("tracker.consent(false); tracker.track('No more')")
    await asyncio.sleep(SETTLED_S)
    assert (await stored(page, context), len(sink.events())) == ([], 1)


async def test_opting_out_is_remembered_and_takes_away_what_was_stored(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    sink.answer = lambda: (503, {"Retry-After": "60"})
    await ready(page, sink.url)
    await page.evaluate("tracker.identify('u1')")
    await until(lambda: sink.requests)
    await page.wait_for_function("Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    assert len(await stored(page, context)) > 2
    await page.evaluate("tracker.optOut(); tracker.track('After')")
    assert await stored(page, context) == ["trk_consent"]
    sink.answer = lambda: (200, {})
    sink.head = "<script>tracker.page()</script>"
    for build, status in (("t.js", 200), ("t.lite.js", 200), ("t.js", 404)):  # the last: the stub alone
        sink.build, sink.script_status = build, status
        await page.goto(f"{sink.url}/{build}")
        await asyncio.sleep(SETTLED_S)
        assert (sink.events(), sink.calls()) == ([], [])
        assert await stored(page, context) == ["trk_consent"]


@pytest.mark.parametrize("build", ["t.js", "t.lite.js", "no script"])
@pytest.mark.parametrize("signal", ["globalPrivacyControl", "doNotTrack"])
async def test_a_browser_that_says_no_is_heard(
    page: Page, context: BrowserContext, sink: Sink, build: str, signal: str
) -> None:
    if build == "no script":
        sink.script_status = 404
    else:
        sink.build = build
    value = "true" if signal == "globalPrivacyControl" else "'1'"
    await page.add_init_script(f"Object.defineProperty(Navigator.prototype, '{signal}', {{get: () => {value}}})")
    sink.head = "<script>tracker.page(); tracker.identify('u1')</script>"
    await page.goto(sink.url)
    await asyncio.sleep(SETTLED_S)
    await page.goto("about:blank")
    assert sink.requests == []
    assert await context.cookies() == []
    sink.attributes = 'data-dnt="ignore"'
    await page.goto(f"{sink.url}/ignored")
    if build != "no script":
        await until(lambda: len(sink.events()) == 2)


async def test_a_stub_whose_script_never_comes_does_not_speak_where_consent_is_required(page: Page, sink: Sink) -> None:
    sink.script_status, sink.attributes = 404, 'data-consent="required"'
    sink.head = "<script>tracker.page()</script>"
    await page.goto(sink.url)
    await asyncio.sleep(SETTLED_S)
    await page.goto("about:blank")
    await asyncio.sleep(0.3)
    assert sink.requests == []


async def test_without_storage_events_leave_and_a_yes_keeps_the_visitor(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    sink.attributes = 'data-storage="none" data-spa'
    await ready(page, sink.url)
    await page.evaluate("tracker.track('Here')")
    await until(lambda: len(sink.events()) == 2)
    assert await stored(page, context) == []
    await page.evaluate("tracker.consent(true)")
    [cookie] = [c for c in await context.cookies() if c["name"] == "trk_anonymous_id"]
    assert cookie["value"] == sink.events()[0]["anonymousId"] == sink.events()[1]["anonymousId"]


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (True, True), ("granted", True), ({"analytics": "granted"}, True), ("denied", False), ("no", False),
        (None, False),
        ({"analytics": "denied"}, False), ({"analytics": 0}, False), ({"ads": True}, False), ({}, False),
    ],
    ids=str,
)  # fmt: skip
async def test_only_what_says_yes_is_a_yes(
    page: Page, context: BrowserContext, sink: Sink, answer: Any, heard: bool
) -> None:
    sink.attributes = 'data-consent="required"'
    await ready(page, sink.url)
    await page.evaluate("answer => { tracker.track('Here'); tracker.consent(answer) }", answer)
    if heard:
        await until(lambda: sink.events())
    else:
        await asyncio.sleep(SETTLED_S)
        assert (await stored(page, context), sink.requests) == ([], [])


SEEN = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.parametrize("attributes", ["", 'data-consent="required"'], ids=["open", "required"])
async def test_another_tab_hears_a_no_and_a_yes_when_it_is_looked_at(
    page: Page, context: BrowserContext, sink: Sink, attributes: str
) -> None:
    sink.attributes = attributes
    await ready(page, sink.url)
    await page.evaluate("tracker.consent(true); tracker.track('Here')")
    other = await context.new_page()
    await ready(other, f"{sink.url}/other")
    await until(lambda: sink.events())
    await page.evaluate("tracker.optOut()")
    await other.evaluate(SEEN)
    await other.evaluate("tracker.track('Refused'); tracker.identify('u1')")
    await asyncio.sleep(SETTLED_S)
    assert [e.get("event") for e in sink.events()] == ["Here"]
    assert await stored(other, context) == ([] if attributes else ["trk_consent"])
    await page.evaluate("tracker.consent(true)")
    await other.evaluate(SEEN)
    await other.evaluate("tracker.track('Agreed')")
    await until(lambda: len(sink.events()) == 2)
    assert sink.events()[1]["event"] == "Agreed"


async def test_what_was_on_its_way_when_the_person_said_no_is_not_tried_again(page: Page, sink: Sink) -> None:
    held = asyncio.Event()

    async def hold(route: Route) -> None:
        await held.wait()
        await route.abort()

    await page.route("**/v1/batch", hold, times=1)
    await ready(page, sink.url)
    async with page.expect_request("**/v1/batch"):
        await page.evaluate("tracker.track('On Its Way')")
    await page.evaluate("tracker.optOut(); tracker.consent(true)")
    held.set()
    await asyncio.sleep(2)  # longer than the first backoff
    await page.evaluate("tracker.track('Agreed')")
    await until(lambda: sink.events())
    await asyncio.sleep(SETTLED_S)
    assert [e["event"] for e in sink.events()] == ["Agreed"]


@pytest.mark.parametrize("answer", ["", "tracker.consent(false)"], ids=["no answer", "no"])
async def test_links_carry_the_visitor_only_with_consent(page: Page, sink: Sink, answer: str) -> None:
    sink.build, sink.attributes = "t.full.js", 'data-linker="localhost" data-consent="required" data-auto=""'
    sink.body = f'<a id=other href="{sink.url.replace("127.0.0.1", "localhost")}/there">x</a>'
    await ready(page, sink.url)
    await page.evaluate("addEventListener('click', e => e.preventDefault());" + answer)
    await page.click("#other")
    assert "trk_link" not in str(await page.get_attribute("#other", "href"))
    await page.evaluate("tracker.consent(true)")
    await page.click("#other")
    assert "trk_link" in str(await page.get_attribute("#other", "href"))


async def test_a_no_and_the_ids_are_written_anew_by_later_visits(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    """Safari forgets what a script has stored 7 days after it was written, others after a year."""

    async def ends() -> dict[str, float]:
        return {str(c["name"]): float(c["expires"]) for c in await context.cookies()}

    await own_clock(page)
    await ready(page, sink.url)
    await page.evaluate("tracker.consent(true); tracker.identify('u1')")
    before = await ends()
    await asyncio.sleep(1.1)
    await page.clock.fast_forward(31 * 60_000)
    await ready(page, f"{sink.url}/later")
    await page.evaluate("tracker.page()")
    after = await ends()
    for name in ("trk_anonymous_id", "trk_user_id", "trk_consent", "trk_first", "trk_last"):
        assert after[name] > before[name] + 1, name
    await page.evaluate("tracker.optOut()")
    before = await ends()
    await asyncio.sleep(1.1)
    await ready(page, sink.url)
    assert (await ends())["trk_consent"] > before["trk_consent"] + 1


@pytest.mark.integration
@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_from_no_answer_to_a_yes_a_no_and_a_yes_what_was_agreed_to_comes_to_kafka_once(
    page: Page, shop: Sink, log: Log, build: str
) -> None:
    shop.build, shop.attributes = build, 'data-consent="required"'
    url = f"{shop.url}/consent"
    await ready(page, url)
    await page.evaluate("tracker.page(); tracker.track('Held')")
    await asyncio.sleep(SETTLED_S)
    await page.evaluate("tracker.consent(true)")
    await until(lambda: len(log.of(url)) == 2)
    await page.evaluate("tracker.consent(false); tracker.track('Refused')")
    await asyncio.sleep(SETTLED_S)
    await page.evaluate("tracker.track('Still Refused'); tracker.consent(true); tracker.track('Agreed')")
    await until(lambda: len(log.of(url)) == 3)
    await ready(page, f"{url}/next")
    await page.evaluate("tracker.track('Next')")
    await until(lambda: len(log.of(url)) == 4)
    await asyncio.sleep(1)
    found: list[Any] = [(e.get("event") or e["type"], e.get("consent")) for e in log.of(url)]
    assert found == [(name, "granted") for name in ("page", "Held", "Agreed", "Next")]


@pytest.mark.integration
@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_where_the_browser_says_no_kafka_has_only_what_the_person_agrees_to(
    page: Page, shop: Sink, log: Log, build: str
) -> None:
    await page.add_init_script("Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true})")
    shop.build = build
    shop.head = "<script>tracker.page(); tracker.identify('u1')</script>"
    url = f"{shop.url}/gpc-{build}"
    await ready(page, url)
    await page.evaluate("tracker.track('Unheard')")
    await asyncio.sleep(SETTLED_S)
    await page.goto(f"{url}/next")
    await page.wait_for_function("window.tracker && tracker.loaded")
    await page.evaluate("tracker.consent(true); tracker.track('Agreed')")
    await until(lambda: log.of(url))
    await asyncio.sleep(1)
    assert [e.get("event") or e["type"] for e in log.of(url)] == ["Agreed"]
