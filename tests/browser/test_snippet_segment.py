"""A page that was written for Segment: its snippet left in place, and what only some sites call."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from .conftest import Sink, own_clock, ready, until

pytestmark = pytest.mark.browser

METHODS = (
    "trackSubmit trackClick trackLink trackForm pageview identify reset group track ready alias debug page screen once"
    " off on addSourceMiddleware addIntegrationMiddleware setAnonymousId addDestinationMiddleware register"
)
# In the shape of Segment's snippet 5.2: a stub calls itself when `initialized` is set and nothing has replaced it.
SNIPPET = f"""<script>
    const analytics = window.analytics = [];
    analytics.invoked = true;
    analytics.methods = "{METHODS}".split(" ");
    analytics.factory = method => function (...args) {{
        if (window.analytics.initialized) return window.analytics[method].apply(window.analytics, args);
        if (/^(track|screen|alias|group|page|identify)$/.test(method)) args.push({{__t: "bpc", u: location.href}});
        analytics.push([method, ...args]);
        return analytics;
    }};
    for (const method of analytics.methods) analytics[method] = analytics.factory(method);
    analytics.load = () => {{}};
    analytics.load("KEY");
    analytics.page();
</script>"""


@pytest.fixture
def segment(sink: Sink) -> Sink:
    sink.attributes = 'data-global="analytics"'
    sink.head = SNIPPET
    return sink


async def started(page: Page, sink: Sink) -> None:
    await page.goto(sink.url)
    await page.wait_for_function("analytics.loaded")


@pytest.mark.parametrize("left", [True, False], ids=["snippet left", "snippet gone"])
async def test_no_call_of_segments_snippet_throws(page: Page, segment: Sink, left: bool) -> None:
    if not left:
        segment.head = ""
    await started(page, segment)
    await page.evaluate("names => { for (const name of names) analytics[name]() }", METHODS.split())
    await page.evaluate(
        """() => {
            analytics.addSourceMiddleware(({payload, next}) => next(payload));
            analytics.register({name: 'x'}); analytics.load('KEY'); analytics.pageview('/elsewhere');
            analytics.debug(false); analytics.popup.register({id: 'x'}); analytics.ecommerce.productAdded();
            analytics.track('Done');
        }"""
    )
    await until(lambda: segment.events() and segment.events()[-1].get("event") == "Done")
    assert [e["properties"]["path"] for e in segment.events() if e["type"] == "page"][-1] == "/elsewhere"


async def test_links_and_forms_are_tracked_and_leave_with_the_page(page: Page, segment: Sink) -> None:
    segment.body = """<a id=out href="/next">x</a> <a class=many href="#b">b</a> <a class=many href="#c" id=c>c</a>
        <form id=form action="/thanks"><input name=length><button id=go>x</button></form>"""
    await started(page, segment)
    await page.evaluate(
        """() => {
            analytics.trackLink(document.querySelector('#out'), 'Out', {n: 1});
            const many = document.querySelectorAll('.many');
            analytics.trackLink(many, a => 'Link ' + a.textContent, a => ({href: a.hash}));
            analytics.trackForm(document.querySelector('#form'), 'Sent', {plan: 'a'});
            analytics.trackLink(null, 'Nothing');
        }"""
    )
    await page.click("#c")
    await page.click("#go")
    await page.wait_for_url("**/thanks**")
    await page.goto(segment.url)
    await page.wait_for_function("analytics.loaded")
    await page.evaluate("analytics.trackLink(document.querySelector('#out'), 'Out', {n: 1})")
    await page.click("#out")
    await until(lambda: len([e for e in segment.events() if e["type"] == "track"]) == 3)
    told = [(e["event"], e["properties"]) for e in segment.events() if e["type"] == "track"]
    assert told == [("Link c", {"href": "#c"}), ("Sent", {"plan": "a"}), ("Out", {"n": 1})]


async def test_user_and_group_answer_as_segments(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    assert await page.evaluate("[tracker.user().id(), tracker.user().traits(), tracker.group().id()]") == [
        None,
        {},
        None,
    ]
    await page.evaluate("tracker.identify({a: 1}); tracker.identify('u1', {b: 2}); tracker.identify('u1', {c: 3})")
    await page.evaluate("tracker.group('g1', {plan: 'gold'})")
    assert await page.evaluate("[tracker.user().id(), tracker.user().traits()]") == ["u1", {"a": 1, "b": 2, "c": 3}]
    assert await page.evaluate("[tracker.group().id(), tracker.group().traits()]") == ["g1", {"plan": "gold"}]
    await page.evaluate("tracker.identify('u2', {d: 4})")
    assert await page.evaluate("tracker.user().traits()") == {"d": 4}
    mine = await page.evaluate("tracker.user().anonymousId()")
    await page.evaluate("tracker.setAnonymousId(); tracker.setAnonymousId(null)")
    assert await page.evaluate("tracker.user().anonymousId()") == mine
    await page.evaluate("tracker.setAnonymousId('given')")
    assert await page.evaluate("tracker.user().anonymousId()") == "given"
    assert await page.evaluate("[tracker.user().id('u3'), tracker.user().anonymousId('a3'), tracker.user().id()]") == [
        "u3", "a3", "u3",
    ]  # fmt: skip
    await page.evaluate("tracker.reset()")
    assert await page.evaluate("[tracker.user().id(), tracker.user().traits(), tracker.group().id()]") == [
        None,
        {},
        None,
    ]


async def test_listeners_hear_calls_and_messages_once_or_until_they_are_taken_off(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    await page.evaluate(
        """() => {
            window.heard = [];
            const every = (event, properties) => heard.push(['every', event, properties]);
            tracker.on('track', () => { throw new Error('a listener of the page') });
            tracker.on('track', every);
            tracker.once('track', event => heard.push(['once', event]));
            tracker.on('message', message => heard.push(['message', message.event, message.context.page.path]));
            tracker.track('A', {n: 1});
            tracker.off('track', every);
            tracker.track('B');
            tracker.flush();
        }"""
    )
    await until(lambda: len(sink.events()) == 2)
    assert await page.evaluate("heard") == [
        ["message", "A", "/"], ["every", "A", {"n": 1}], ["once", "A"], ["message", "B", "/"],
    ]  # fmt: skip


async def test_flush_sends_at_once(page: Page, sink: Sink) -> None:
    await own_clock(page)  # no timer of the page runs by itself
    await ready(page, sink.url)
    await page.clock.pause_at("2100-01-01")
    await page.evaluate("tracker.track('Now'); tracker.flush()")
    await until(lambda: sink.events(), 5)


async def test_a_browser_that_a_program_drives_says_so(page: Page, sink: Sink) -> None:
    await ready(page, sink.url)
    await page.evaluate("tracker.track('A')")
    await until(lambda: sink.events())
    assert sink.events()[0]["context"]["webdriver"] is True
