"""The core journeys in Firefox, against the real endpoint: each event is in Kafka, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from .conftest import Log, Sink, need_browser, until
from .firefox import FIREFOX, Firefox, Tab, started

pytestmark = [pytest.mark.browser, pytest.mark.integration]

SETTLED_S = 1.0
MAX_BACK_S = 10.0
"""Far from the 30 s after which every request without an answer is given up."""


@pytest.fixture(scope="module")
async def firefox() -> AsyncIterator[Firefox]:
    need_browser(FIREFOX, "no Firefox: apt-get install firefox-esr, or set FIREFOX to its path")
    async with started() as firefox:
        yield firefox


@pytest.fixture
async def tab(firefox: Firefox) -> AsyncIterator[Tab]:
    async with firefox.visitor() as tab:
        yield tab


async def names_of(log: Log, url: str, count: int) -> list[str]:
    """Names of the events of `url`, by time; `count` of them are awaited, and then whether more come."""
    await until(lambda: len(log.of(url)) >= count)
    await asyncio.sleep(SETTLED_S)
    return [str(e.get("event") or e["type"]) for e in log.of(url)]


async def ready(tab: Tab, url: str) -> None:
    await tab.goto(url)
    await tab.wait_for("!!(window.tracker && tracker.loaded)")


@pytest.mark.parametrize("build", ["t.js", "t.lite.js"])
async def test_leaving_in_mid_queue_loses_nothing(tab: Tab, shop: Sink, log: Log, build: str) -> None:
    shop.build = build
    url = f"{shop.url}/firefox-leaving"
    await ready(tab, url)
    await tab.evaluate(
        """for (let i = 0; i < 30; i++) tracker.track('Early ' + i);
           setTimeout(() => {
               for (let i = 0; i < 30; i++) tracker.track('Late ' + i);
               location.href = '/elsewhere';
           }, 270); 0"""
    )
    names = await names_of(log, url, 60)
    assert sorted(names) == sorted(f"{part} {i}" for part in ("Early", "Late") for i in range(30))


async def test_calls_leave_when_the_script_does_not_come(tab: Tab, shop: Sink, log: Log) -> None:
    shop.build, shop.late = "none.js", True
    shop.head = "<script>tracker.page(); tracker.identify('u-fox'); tracker.track('Seen', {n: 1})</script>"
    url = f"{shop.url}/firefox-blocked"
    await tab.goto(url)
    assert await names_of(log, url, 3) == ["page", "identify", "Seen"]
    assert len({e["anonymousId"] for e in log.of(url)}) == 1


async def test_a_route_is_viewed_once_and_a_page_that_comes_back_is_viewed_again(
    tab: Tab, shop: Sink, log: Log
) -> None:
    shop.attributes = "data-spa"
    url = f"{shop.url}/firefox-spa"
    await ready(tab, f"{url}/a")
    await tab.evaluate(
        """history.pushState({}, '', 'b'); history.replaceState({}, '', 'b?x=1'); window.kept = true;
           addEventListener('pageshow', e => { window.restored = e.persisted });
           new Promise(resolve => setTimeout(resolve, 100))"""
    )
    await tab.goto(f"{shop.url}/elsewhere")
    await tab.back()
    await tab.wait_for("window.restored === true && window.kept")
    assert await names_of(log, url, 3) == ["page"] * 3
    paths = [e["properties"]["path"].rpartition("/")[2] + e["properties"]["search"] for e in log.of(url)]
    assert paths == ["a", "b?x=1", "b?x=1"]


@pytest.mark.parametrize("answered", [True, False], ids=["answered while it was away", "never answered"])
async def test_a_request_that_was_in_flight_when_the_page_was_left_does_not_hold_up_the_page_that_comes_back(
    tab: Tab, sink: Sink, answered: bool
) -> None:
    await ready(tab, sink.url)
    sink.answer_gate.clear()
    await tab.evaluate(
        "addEventListener('pageshow', e => { window.restored = e.persisted });"
        " tracker.track('Left'); tracker.flush(); 0"
    )
    await until(lambda: sink.requests)
    await tab.goto(f"{sink.url}/elsewhere")
    if answered:
        sink.answer_gate.set()
        await asyncio.sleep(SETTLED_S)
    await tab.back()
    await tab.wait_for("window.restored === true")
    back_at = time.monotonic()
    await tab.evaluate("tracker.track('Back'); 0")
    sent = (first := sink.events()[0])["messageId"]
    await until(lambda: "Back" in [e["event"] for e in sink.events()])
    assert time.monotonic() - back_at < MAX_BACK_S
    assert first["event"] == "Left"
    # It has no answer, so it comes once more, and counts once.
    assert [e["messageId"] for e in sink.events() if e["event"] == "Left"] == [sent] * 2


async def test_in_a_frame_of_another_site_the_visitor_is_known_again(tab: Tab, sink: Sink) -> None:
    """There the browser does not take our cookies; what it lets a frame store is kept by the page around it."""
    sink.head = "<script>tracker.page()</script>"
    sink.pages["/top"] = f'<!doctype html><iframe src="{sink.url}/frame"></iframe>'
    for n in (1, 2):
        await tab.goto(sink.url.replace("127.0.0.1", "localhost") + "/top")
        await until(lambda n=n: len(sink.events()) == n)  # type: ignore[misc]
    one, two = sink.events()
    assert one["anonymousId"] == two["anonymousId"]
    assert one["context"]["sessionId"] == two["context"]["sessionId"]


async def test_before_consent_nothing_is_stored_or_sent_and_after_it_everything_is_once(
    tab: Tab, shop: Sink, log: Log
) -> None:
    shop.attributes = 'data-consent="required"'
    url = f"{shop.url}/firefox-consent"
    await ready(tab, url)
    await tab.evaluate("tracker.page(); tracker.track('Held'); dispatchEvent(new Event('pagehide'))")
    await asyncio.sleep(SETTLED_S)
    assert await tab.evaluate("document.cookie + Object.keys(localStorage)") == ""
    assert log.of(url) == []
    await tab.evaluate("tracker.consent(true)")
    assert await names_of(log, url, 2) == ["page", "Held"]
    assert "trk_anonymous_id=" in await tab.evaluate("document.cookie")


async def test_what_was_refused_for_now_comes_once_with_the_next_page_and_not_before_retry_after(
    tab: Tab, shop: Sink, log: Log
) -> None:
    shop.upstream, shop.endpoint = shop.endpoint, ""
    shop.answer = lambda: (503, {"Retry-After": "2"})
    url = f"{shop.url}/firefox-busy"
    await ready(tab, url)
    await tab.evaluate("tracker.track('Patient')")
    await until(lambda: shop.requests)
    refused_at = time.monotonic()
    shop.answer = lambda: (200, {})
    await tab.wait_for("Object.keys(localStorage).some(k => k.startsWith('trk_q.'))")
    await ready(tab, f"{url}/next")
    await until(lambda: log.of(url))
    assert time.monotonic() - refused_at >= 1.9
    assert await names_of(log, url, 1) == ["Patient"]
