"""What /t.full.js does by itself: engagement, clicks, forms, popups, tools of others, ecommerce, dataLayer, links."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tracker.contract.events import ECOMMERCE

from .conftest import Sink, own_clock, passing, ready, until

pytestmark = pytest.mark.browser

TALL = "<div style='height: 4000px'></div>"


@pytest.fixture
def full(sink: Sink) -> Sink:
    sink.build, sink.attributes = "t.full.js", "data-spa"
    return sink


def of(sink: Sink, prefix: str) -> list[dict[str, Any]]:
    return [e for e in sink.events() if e.get("event", "").startswith(prefix)]


def names(sink: Sink, prefix: str) -> list[str]:
    return [e["event"].removeprefix(prefix).strip() for e in of(sink, prefix)]


async def test_a_minute_of_reading_is_a_minute_of_beats_and_nothing_counts_while_nobody_is_there(
    page: Page, full: Sink
) -> None:
    await own_clock(page)
    full.body = TALL
    await ready(page, full.url)
    for _ in range(6):
        await page.mouse.move(1, 1)
        await page.mouse.move(5, 5)
        await page.clock.run_for(10_000)
    await page.clock.run_for(300_000)  # nobody moves: 30 s more count
    await page.evaluate("scrollTo(0, 1e6)")
    await page.clock.run_for(500)
    await page.evaluate("location.href = 'about:blank'")
    await until(lambda: len(of(full, "Page Engaged")) >= 7)
    await asyncio.sleep(0.5)
    facts = [e["properties"] for e in of(full, "Page Engaged")]
    assert facts[0]["engaged_ms"] == 0
    assert all(14_000 <= f["engaged_ms"] <= 16_000 for f in facts[1:6])
    assert 79_000 <= sum(f["engaged_ms"] for f in facts) <= 84_000  # the last sign came at 50 s
    assert (facts[0]["scroll_percent"] < 50, facts[-1]["scroll_percent"]) == (True, 100)
    assert len(facts) <= 8


async def test_hiding_and_leaving_tell_the_last_beat_once_and_of_the_page_it_is_about(page: Page, full: Sink) -> None:
    await own_clock(page)
    await ready(page, full.url)
    await page.clock.run_for(5000)
    hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
    await page.evaluate(
        hide + "document.dispatchEvent(new Event('visibilitychange')); dispatchEvent(new Event('pagehide'))"
    )
    await until(lambda: len(of(full, "Page Engaged")) == 2)
    await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    await page.clock.run_for(4000)
    await page.evaluate("history.pushState({}, '', '/b')")
    await passing(page, lambda: len(of(full, "Page Engaged")) == 4)
    beats = [
        (e["context"]["page"]["path"], round(e["properties"]["engaged_ms"] / 1000)) for e in of(full, "Page Engaged")
    ]
    assert beats == [("/", 0), ("/", 5), ("/", 4), ("/b", 0)]


async def test_links_that_lead_away_files_and_marked_elements_are_told(page: Page, full: Sink) -> None:
    full.body = """
        <a id=out href="https://other.example/x">x</a> <a id=in href="/in">x</a> <a id=file href="/price.pdf">x</a>
        <button data-track-event="Plan Chosen" data-track-plan="pro" data-track-seat-count="3"><b id=b>x</b></button>
        <input data-track-event="Typed" value="secret" id=typed>"""
    await ready(page, full.url)
    await page.evaluate("addEventListener('click', e => e.preventDefault())")
    for element in ("out", "in", "file", "b", "typed"):
        await page.click(f"#{element}")
    await until(lambda: len(of(full, "Typed")) == 1)
    told = [
        (e["event"], e["properties"]) for e in full.events() if e["type"] == "track" and "Engaged" not in e["event"]
    ]
    assert told == [
        ("Link Clicked", {"url": "https://other.example/x", "host": "other.example", "outbound": True}),
        ("File Downloaded", {"url": f"{full.url}/price.pdf", "host": "127.0.0.1", "extension": "pdf"}),
        ("Plan Chosen", {"plan": "pro", "seat_count": "3"}),
        ("Typed", {}),
    ]


async def test_forms_are_started_submitted_or_abandoned_and_what_was_typed_stays_in_the_page(
    page: Page, full: Sink
) -> None:
    full.body = """
        <form id=lead action=/lead data-track-values="city password">
        <input name=email><input name=city><input name=password type=password><button>x</button></form>
        <form id=left><input name=phone id=phone></form><form id=off data-track-off><input name=a id=a></form>
        <script>addEventListener('submit', e => e.preventDefault())</script>"""
    await ready(page, full.url)
    for name, value in {"email": "geheim@x.vn", "city": "Huế", "password": "geheim"}.items():
        await page.fill(f"[name={name}]", value)
    await page.click("#lead button")
    await page.fill("#a", "geheim")
    await page.fill("#phone", "geheim")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # a look at another tab is no leaving
    await page.evaluate("location.href = 'about:blank'")
    await until(lambda: len(of(full, "Form")) >= 4)
    await asyncio.sleep(0.3)
    told = [(e["event"], e["properties"]["form_id"], e["properties"].get("fields")) for e in of(full, "Form")]
    assert told == [
        ("Form Started", "lead", ["email"]),
        ("Form Submitted", "lead", ["email", "city", "password"]),
        ("Form Started", "left", ["phone"]),
        ("Form Abandoned", "left", ["phone"]),
    ]
    assert of(full, "Form Submitted")[0]["properties"]["values"] == {"city": "Huế"}
    assert "geheim" not in str(full.requests)


async def test_a_form_with_a_field_named_action_is_told_and_does_not_stop_what_leaves_with_the_page(
    page: Page, full: Sink
) -> None:
    full.body = (
        '<form id=wp action="/wp-admin/admin-ajax.php?x=1"><input name=action value=send><input id=a name=a></form>'
    )
    await ready(page, full.url)
    await page.fill("#a", "x")
    await page.evaluate("tracker.track('Last'); location.href = 'about:blank'")
    await until(lambda: {"Last", "Form Abandoned"} <= {e.get("event") for e in full.events()})
    assert [(e["event"], e["properties"]["action"]) for e in of(full, "Form")] == [
        ("Form Started", "/wp-admin/admin-ajax.php"),
        ("Form Abandoned", "/wp-admin/admin-ajax.php"),
    ]


async def test_an_extra_that_cannot_start_stops_nothing_else(page: Page, full: Sink) -> None:
    full.attributes = 'data-auto="datalayer engagement"'
    full.head = "<script>window.dataLayer = 'no array'</script>"
    await ready(page, full.url)
    await page.evaluate("tracker.track('Here')")
    await until(lambda: of(full, "Here"))


REGISTER = """(more) => {
    window.shown = [];
    const show = (told) => { window.shown.push(Date.now()); window.told = told };
    tracker.popup.register({id: 'welcome', show, ...more});
}"""


async def shown(page: Page) -> int:
    return int(await page.evaluate("window.shown.length"))


async def test_a_popup_never_comes_on_arrival_but_after_thirty_seconds_two_pages_and_half_a_page(
    page: Page, full: Sink
) -> None:
    await own_clock(page)
    full.body = TALL
    await ready(page, full.url)
    await page.evaluate(REGISTER, {})
    await page.clock.run_for(40_000)
    assert await shown(page) == 0  # time alone
    await page.evaluate("history.pushState({}, '', '/b')")
    await page.clock.run_for(2000)
    assert await shown(page) == 0  # time and pages
    await page.evaluate("scrollTo(0, 2000)")
    await page.clock.run_for(2000)
    assert await shown(page) == 1
    await page.clock.run_for(120_000)
    assert await shown(page) == 1
    await page.evaluate("told.clicked(); told.submitted({fields: ['email']})")
    await passing(page, lambda: len(of(full, "Popup")) == 5)
    assert names(full, "Popup") == ["Eligible", "Triggered", "Viewed", "Clicked", "Submitted"]
    facts = of(full, "Popup")[4]["properties"]
    assert facts == {"popup_id": "welcome", "provider": "tracker", "trigger": "rule", "fields": ["email"]}


@pytest.mark.parametrize(
    ("when", "steps", "expected"),
    [
        ({"secondsOnSite": 30}, ["29"], 0),
        ({"secondsOnSite": 30}, ["31"], 1),
        ({"pages": 2}, ["10"], 0),
        ({"pages": 2}, ["/b", "10"], 1),
        ({"pages": 1}, ["4"], 0),  # whatever is asked for: not on arrival
        ({"pages": 1}, ["6"], 1),
        ({"pages": 1, "onArrival": True}, ["2"], 1),
        ({"scrollPercent": 50}, ["10"], 0),
        ({"scrollPercent": 50}, ["scroll", "10"], 1),
        ({"scrollPercent": 50, "pages": 3, "any": True}, ["scroll", "10"], 1),
        ({"scrollPercent": 50, "pages": 3}, ["scroll", "10"], 0),
        ({"inactiveSeconds": 20}, ["15", "move", "15"], 0),
        ({"inactiveSeconds": 20}, ["25"], 1),
        ({"exitIntent": True}, ["10", "out-below"], 0),
        ({"exitIntent": True}, ["3", "out"], 0),
        ({"exitIntent": True}, ["10", "out"], 1),
        ({"exitIntent": True, "pages": 2}, ["10", "out"], 0),
        ({}, ["60"], 0),
    ],
    ids=str,
)
async def test_the_gate_of_a_popup(
    page: Page, full: Sink, when: dict[str, Any], steps: list[str], expected: int
) -> None:
    await own_clock(page)
    full.body, full.attributes = TALL, 'data-spa data-auto=""'
    await ready(page, full.url)
    await page.evaluate(REGISTER, {"when": when})
    for step in steps:
        if step.isdigit():
            await page.clock.run_for(int(step) * 1000)
        elif step.startswith("/"):
            await page.evaluate(f"history.pushState({{}}, '', '{step}')")
        elif step == "scroll":
            await page.evaluate("scrollTo(0, 2200)")
        elif step == "move":
            await page.mouse.move(20, 20)
        else:
            y = 300 if step == "out-below" else -1
            await page.evaluate(f"document.dispatchEvent(new MouseEvent('mouseout', {{clientY: {y}, bubbles: true}}))")
    assert await shown(page) == expected


async def test_caps_hold_over_pages_visits_and_after_a_submission(page: Page, full: Sink) -> None:
    await own_clock(page)
    full.attributes = 'data-spa data-auto=""'

    async def visit(wait_s: int = 0) -> int:
        await page.goto("about:blank")
        await page.clock.fast_forward(wait_s * 1000)
        await ready(page, full.url)
        await page.evaluate(REGISTER, {"when": {"secondsOnSite": 6}, "asks": "email"})
        await page.clock.run_for(8000)
        return await shown(page)

    hour_s = 3600
    assert await visit() == 1
    assert await visit() == 0  # once a visit
    assert await visit(2 * hour_s) == 0  # another visit, the same day
    assert await visit(23 * hour_s) == 1
    await page.evaluate("told.submitted()")
    assert await visit(48 * hour_s) == 0  # submitted within 30 days
    assert await visit(31 * 24 * hour_s) == 1
    await page.evaluate("tracker.identify('u1', {email: 'a@b.vn'})")
    assert await visit(48 * hour_s) == 0  # what it asks for is known


async def test_a_popup_that_was_held_back_or_not_drawn_is_told_as_such(page: Page, full: Sink) -> None:
    full.attributes = 'data-auto=""'
    await ready(page, full.url)
    await page.evaluate(
        """() => {
            tracker.popup.register({id: 'out', holdout: 1, show: () => { window.wrong = true }});
            tracker.popup.register({id: 'none', show: () => false});
            tracker.popup.register({id: 'broken', show: () => { throw new Error('x') }});
            for (const id of ['out', 'none', 'broken']) tracker.popup.show(id);
        }"""
    )
    await until(lambda: len(of(full, "Popup")) == 5)
    told = [(e["properties"]["popup_id"], e["event"], e["properties"].get("holdout")) for e in of(full, "Popup")]
    assert told == [
        ("out", "Popup Eligible", True),
        ("none", "Popup Eligible", None), ("none", "Popup Triggered", None),
        ("broken", "Popup Eligible", None), ("broken", "Popup Triggered", None),
    ]  # fmt: skip
    assert await page.evaluate("window.wrong") is None


async def test_of_several_popups_that_may_be_shown_one_is_and_the_next_when_it_is_closed(
    page: Page, full: Sink
) -> None:
    await own_clock(page)
    full.attributes = 'data-auto=""'
    await ready(page, full.url)
    await page.evaluate(
        """() => {
            window.log = []; window.told = {};
            for (const id of ['a', 'b', 'a']) {  // a component that is mounted twice
                tracker.popup.register({id, when: {secondsOnSite: 6}, show: (t) => { log.push(id); told[id] = t }});
            }
            for (const wrong of [{}, {id: 'x'}, {show() {}}]) tracker.popup.register(wrong);
        }"""
    )
    await page.clock.run_for(20_000)
    first = await page.evaluate("log.join()")
    assert first in ("a", "b")
    # As in a dialog whose close event follows a submission.
    await page.evaluate("id => { told[id].submitted(); told[id].dismissed(); told[id].clicked() }", first)
    await page.clock.run_for(20_000)
    assert sorted(await page.evaluate("log")) == ["a", "b"]
    await passing(page, lambda: len(of(full, "Popup")) >= 7)
    assert names(full, "Popup") == ["Eligible", "Triggered", "Viewed", "Submitted", "Eligible", "Triggered", "Viewed"]


async def test_a_popup_that_was_not_drawn_costs_nothing_of_its_caps_and_is_tried_again_at_the_next_page(
    page: Page, full: Sink
) -> None:
    await own_clock(page)
    full.attributes = 'data-spa data-auto=""'
    await ready(page, full.url)
    await page.evaluate(
        """() => {
            window.tried = [];
            const results = {no: () => false, broken: () => { throw new Error('x') }};
            for (const id in results) {
                const show = () => { tried.push(id); return window.drawn || results[id]() };
                tracker.popup.register({id, when: {secondsOnSite: 6}, show});
            }
        }"""
    )
    await page.clock.run_for(10_000)
    assert await page.evaluate("tried.join()") == "no,broken"  # once, not every second
    await page.evaluate("window.drawn = true; tracker.page()")
    await page.clock.run_for(2000)
    assert await page.evaluate("tried.join()") == "no,broken,no"


async def test_tools_that_are_loaded_later_and_steps_that_are_no_submission_are_known(page: Page, full: Sink) -> None:
    await own_clock(page)
    await ready(page, full.url)
    await page.clock.run_for(5000)
    await page.evaluate(
        """() => {
            window.wise = {}; window.wisepops = (verb, event, listener) => { wise[event] = listener };
            window.jQuery = () => ({on: (events, listener) => { window.pum = listener }});
        }"""
    )
    await page.clock.run_for(5000)
    await page.evaluate(
        "wise['after-popin-display']({target: {id: 7}}); pum({type: 'pumAfterOpen', target: {id: 'pum-1'}})"
    )
    for kind in ("embedOpen", "stepSubmit", "submit"):
        await page.evaluate(fired("window", "klaviyoForms", f"{{type: '{kind}', formId: 'K1'}}"))
    await passing(page, lambda: len(of(full, "Popup")) >= 3)
    told = [(e["properties"]["provider"], e["event"]) for e in of(full, "Popup")]
    assert told == [("wisepops", "Popup Viewed"), ("popup-maker", "Popup Viewed"), ("klaviyo", "Popup Submitted")]


def fired(target: str, name: str, detail: str) -> str:
    return f"{target}.dispatchEvent(new CustomEvent('{name}', {{detail: {detail}}}))"


@pytest.mark.parametrize(
    ("fire", "provider", "popup_id", "actions"),
    [
        (
            [fired("window", "klaviyoForms", f"{{type: '{t}', formId: 'K1', metaData: {{$email: 'geheim'}}}}")
             for t in ("open", "submit", "close", "other")],
            "klaviyo", "K1", ["Viewed", "Submitted", "Dismissed"],
        ),
        (
            [fired("document", f"om.{t}", "{Campaign: {id: 'om1'}, Optin: {email: 'geheim'}}")
             for t in ("Campaign.afterShow", "Optin.success", "Campaign.afterClose")],
            "optinmonster", "om1", ["Viewed", "Submitted", "Dismissed"],
        ),
        (
            [fired("window", "omnisendForms", f"{{type: '{t}', form: {{id: 'o1'}}, formValues: {{email: 'geheim'}}}}")
             for t in ("open", "submit", "close")],
            "omnisend", "o1", ["Viewed", "Submitted", "Dismissed"],
        ),
        (
            [fired("window", "postscriptPopup", f"{{type: '{t}', popupId: 42, values: {{phone: 'geheim'}}}}")
             for t in ("impression", "formSubmit", "close", "buttonClick")],
            "postscript", "42", ["Viewed", "Submitted", "Dismissed", "Clicked"],
        ),
        (
            ["wise['after-popin-display']({target: {id: 7}})", "wise['tracked-click']({target: {id: 7}})",
             "wise['after-form-submit']({target: {id: 7}})", "wise['after-popin-close']({target: {id: 7}})"],
            "wisepops", "7", ["Viewed", "Clicked", "Submitted", "Dismissed"],
        ),
        (
            ["pum({type: 'pumAfterOpen', target: {id: 'pum-123'}})",
             "pum({type: 'pumAfterClose', target: {id: 'pum-123'}})"],
            "popup-maker", "123", ["Viewed", "Dismissed"],
        ),
    ],
    ids=["klaviyo", "optinmonster", "omnisend", "postscript", "wisepops", "popup-maker"],
)  # fmt: skip
async def test_popup_tools_of_others_are_listened_to(
    page: Page, full: Sink, fire: list[str], provider: str, popup_id: str, actions: list[str]
) -> None:
    full.body = """<script>
        window.wise = {}; window.wisepops = (verb, event, listener) => { wise[event] = listener };
        window.jQuery = () => ({on: (events, listener) => { window.pum = listener }});
    </script>"""
    await ready(page, full.url)
    await page.wait_for_function("!!window.pum")
    for statement in fire:
        await page.evaluate(statement)
    await until(lambda: len(of(full, "Popup")) >= len(actions))
    assert names(full, "Popup") == actions
    for event in of(full, "Popup"):
        assert (event["properties"]["provider"], event["properties"]["popup_id"]) == (provider, popup_id)
    assert "geheim" not in str(full.requests)


async def test_each_name_of_the_ecommerce_spec_has_a_call_and_ga4s_events_are_taken_on_request(
    page: Page, full: Sink
) -> None:
    full.attributes = 'data-auto="datalayer"'
    full.head = """<script>
        window.dataLayer = [{event: 'view_item', ecommerce: {currency: 'VND', items: [{item_id: 'p1'}]}}];
        function gtag() { dataLayer.push(arguments) }
    </script>"""
    await ready(page, full.url)
    await page.evaluate(
        """() => {
            tracker.ecommerce.productAdded({product_id: 'p1'});
            tracker.ecommerce.productAddedToWishlist({product_id: 'p2'});
            gtag('event', 'purchase', {transaction_id: 't1', value: 5});
            gtag('event', 'scroll', {}); gtag('js', new Date()); dataLayer.push({event: 'gtm.js'}, null);
        }"""
    )
    await until(lambda: len(full.events()) == 4)
    told = [(e["event"], e["properties"]) for e in full.events()]
    assert told == [
        ("view_item", {"currency": "VND", "items": [{"item_id": "p1"}]}),
        ("Product Added", {"product_id": "p1"}),
        ("Product Added to Wishlist", {"product_id": "p2"}),
        ("purchase", {"transaction_id": "t1", "value": 5}),
    ]
    methods = [name[0].lower() + name.title().replace(" ", "")[1:] for name in ECOMMERCE]
    await page.evaluate("names => { for (const name of names) tracker.ecommerce[name]({n: name}) }", methods)
    await until(lambda: len(full.events()) == 4 + len(ECOMMERCE))
    assert [e["event"] for e in full.events()[4:]] == list(ECOMMERCE)
    # What is no event of the spec is told in the console alone.
    await page.evaluate("tracker.ecommerce.productAdd({}); JSON.stringify(tracker.ecommerce); tracker.flush()")
    await asyncio.sleep(0.5)
    assert len(full.events()) == 4 + len(ECOMMERCE)


async def test_the_debug_view_shows_events_as_they_leave(page: Page, full: Sink) -> None:
    full.answer = lambda: (503, {})
    await ready(page, f"{full.url}?tracker_debug=1")
    await page.evaluate("tracker.track('<img src=x onerror=window.hit=1>', {n: 1})")
    view = page.locator("pre")
    await expect(view).to_contain_text('✗503 track <img src=x onerror=window.hit=1> {"n":1}')
    full.answer = lambda: (200, {})
    await expect(view).to_contain_text("✓ track <img")
    await expect(view).to_contain_text("✓ page")
    assert await page.evaluate("window.hit") is None
    await page.evaluate("tracker.debug(false)")
    assert await view.count() == 0


async def test_the_visitor_is_one_over_the_sites_domains_and_a_strange_page_gives_nobody_an_id(
    page: Page, context: BrowserContext, full: Sink
) -> None:
    other = full.url.replace("127.0.0.1", "localhost")
    full.attributes = 'data-linker="localhost 127.0.0.1" data-auto=""'
    full.body = f'<a id=other href="{other}/there?a=1">x</a>'
    await ready(page, full.url)
    mine = await page.evaluate("tracker.user().anonymousId()")
    await page.click("#other")
    await page.wait_for_url(f"{other}/there?a=1")
    await page.wait_for_function("window.tracker && tracker.loaded")
    assert await page.evaluate("tracker.user().anonymousId()") == mine
    await context.clear_cookies()
    await ready(page, f"{other}/there?trk_link=given~{2**45}")
    await page.goto(f"{other}/x?trk_link=given~0")
    await page.wait_for_function("window.tracker && tracker.loaded")
    assert await page.evaluate("tracker.user().anonymousId()") not in (mine, "given")


WORKER = """
self.tracker = {writeKey: 'k-123456'};
importScripts('/t.sw.js');
const tell = (type, more) => self.dispatchEvent(Object.assign(new ExtendableEvent(type), more));
const shown = {close() {}, data: {token: 'tok', message_id: 'm1', anonymousId: 'a1', campaign_id: 'c1'}};
Object.defineProperty(self, 'registration', {value: {showNotification: async (t, o) => { shown.data = o.data }}});
self.addEventListener('message', () => {
    tell('push', {data: {json: () => ({title: 'Xin chào', ...shown.data})}});
    setTimeout(() => tell('notificationclick', {notification: shown, action: 'open'}), 100);
    setTimeout(() => tell('notificationclose', {notification: shown}), 200);
    setTimeout(() => tell('pushsubscriptionchange', {}), 300);
});
"""


async def test_the_service_worker_tells_what_becomes_of_a_push_with_its_token(page: Page, full: Sink) -> None:
    """Headless browsers get no pushes: the worker's events are made in it."""
    full.worker = WORKER
    await ready(page, full.url)
    await page.evaluate(
        "navigator.serviceWorker.register('/sw.js').then(() => navigator.serviceWorker.ready)"
        ".then(r => r.active.postMessage('go'))"
    )

    def channel() -> list[dict[str, Any]]:
        return [e for e in full.events() if e["context"].get("channel") == "webpush"]

    await until(lambda: len(channel()) >= 5)
    told = sorted((e["event"], e["messageId"].partition(".")[0] == "m1") for e in channel())
    assert told == [
        ("Push Notification Bounced", False), ("Push Notification Received", True), ("Push Notification Tapped", True),
        ("Web Push Dismissed", True), ("Web Push Displayed", True),
    ]  # fmt: skip
    for event in channel():
        if event["event"] != "Push Notification Bounced":
            assert (event["properties"]["token"], event["anonymousId"]) == ("tok", "a1")
