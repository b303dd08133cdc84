"""Cookies and referrers over the hosts of a site, under made-up names that the browser finds at this machine."""

from __future__ import annotations

import pytest
from playwright.async_api import BrowserContext, Page

from tests.harness import eventually
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.keys import Keys
from tracker.visitor_cookie import cookie_of

from .conftest import STATIC, Sink, until

pytestmark = pytest.mark.browser


def at(sink: Sink, host: str, path: str = "/") -> str:
    return f"http://{host}:{sink.url.rpartition(':')[2]}{path}"


async def go(page: Page, url: str) -> None:
    """By a link, so that there is a referrer."""
    await page.evaluate(f"location.href = '{url}'")
    await page.wait_for_url(url)
    await page.wait_for_function("window.tracker && tracker.loaded")


async def test_subdomains_share_the_visitor_by_a_cookie_on_the_widest_domain(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    await page.goto(at(sink, "a.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.identify('u1')")
    ids = [await page.evaluate("tracker.user().anonymousId()")]
    for host in ("b.shop.com.vn", "shop.com.vn", "x.y.shop.com.vn"):
        await page.goto(at(sink, host))
        await page.wait_for_function("tracker.loaded")
        ids.append(await page.evaluate("tracker.user().anonymousId()"))
        assert await page.evaluate("tracker.user().id()") == "u1"
    assert len(set(ids)) == 1
    assert {c["domain"] for c in await context.cookies() if c["name"].startswith("trk_")} == {".shop.com.vn"}
    await page.goto(at(sink, "other.com.vn"))
    await page.wait_for_function("tracker.loaded")
    assert await page.evaluate("tracker.user().anonymousId()") not in ids
    # A reset on one is a reset on all.
    await page.evaluate("tracker.reset()")
    await page.goto(at(sink, "b.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.reset()")
    await page.goto(at(sink, "a.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    assert await page.evaluate("tracker.user().id()") is None


async def ids_become(context: BrowserContext, wanted: list[str]) -> None:
    """Within 30 s the visitor's cookies have these values."""

    async def are() -> bool:
        return [c["value"] for c in await context.cookies() if c["name"] == "trk_anonymous_id"] == wanted

    await eventually(are, 30.0, every_s=0.02)


def setting(sink: Sink) -> None:
    """The endpoint on t.shop.com.vn sets cookies as the real one does."""
    sites = {"shop": Site(write_key=sink.key, secret_key="sk-123456", cookie_domain="shop.com.vn")}
    settings = Settings(sites=sites)
    owner = Keys(settings).find(sink.key)
    assert owner is not None

    def cookie(origin: str | None, query: bytes) -> str:
        answer = cookie_of(settings, owner, origin, query)
        return answer if isinstance(answer, str) else ""

    sink.cookie = cookie
    sink.endpoint = at(sink, "t.shop.com.vn", "")


async def test_the_endpoint_sets_the_visitors_cookie_where_it_is_asked_to(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    setting(sink)
    sink.attributes = 'data-cookie="server"'
    # What the script writes is lost, so that what is there is the endpoint's.
    sink.head = "<script>Object.defineProperty(document, 'cookie', {get: () => '', set() {}})</script>"
    await page.goto(at(sink, "www.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.track('A'); tracker.track('B')")
    await until(lambda: len(sink.events()) == 2 and sink.asked)
    [cookie] = [c for c in await context.cookies() if c["name"] == "trk_anonymous_id"]
    assert cookie["value"] == sink.events()[0]["anonymousId"]
    assert (cookie["domain"], cookie["httpOnly"], cookie["sameSite"]) == (".shop.com.vn", False, "Lax")
    assert len(sink.asked) == 1  # once a visit
    # A page of somebody else can give nobody an id.
    await page.goto(at(sink, "other.com.vn"))
    await page.evaluate(f"navigator.sendBeacon('{sink.endpoint}/v1/batch/id?writeKey={sink.key}&id=given')")
    await until(lambda: len(sink.asked) == 2)
    await page.goto("about:blank")
    assert {c["value"] for c in await context.cookies(sink.endpoint)} == {cookie["value"]}


@pytest.mark.parametrize("attributes", ['data-consent="required"', 'data-storage="none"'])
async def test_the_endpoint_is_asked_for_a_cookie_only_where_one_may_be_set(
    page: Page, context: BrowserContext, sink: Sink, attributes: str
) -> None:
    setting(sink)
    sink.attributes = f'data-cookie="server" {attributes}'
    await page.goto(at(sink, "www.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.track('A'); dispatchEvent(new Event('pagehide'))")
    await page.goto(at(sink, "www.shop.com.vn", "/next"))
    await page.wait_for_function("tracker.loaded")
    assert (sink.asked, await context.cookies()) == ([], [])
    await page.evaluate("tracker.consent(true); tracker.track('B')")
    await until(lambda: sink.asked and sink.events())
    # A no takes it away, also when the endpoint has been asked and has not answered.
    await page.evaluate("tracker.consent(false)")
    await ids_become(context, [])


@pytest.mark.parametrize("attributes", ["", 'data-consent="required"'])
@pytest.mark.parametrize("then", ["consent(false)", "reset()", "identify('u2')"])
async def test_what_is_said_before_the_endpoint_has_set_its_cookie_stays(
    page: Page, context: BrowserContext, sink: Sink, attributes: str, then: str
) -> None:
    setting(sink)
    sink.cookie_gate.clear()
    sink.attributes = f'data-cookie="server" {attributes}'
    await page.goto(at(sink, "www.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.consent(true); tracker.identify('u1')")
    await until(lambda: sink.asked)
    async with page.expect_event("requestfinished", lambda request: "/v1/batch/id" in request.url):
        id = await page.evaluate(f"tracker.{then}; tracker.user().anonymousId()")
        assert id not in sink.asked[0]
        # The endpoint sets the id that it was asked for.
        sink.cookie_gate.set()
    await ids_become(context, [] if "false" in then else [id])
    assert await page.evaluate("tracker.user().anonymousId()") == id


@pytest.mark.parametrize("attributes", ['data-consent="required"', 'data-storage="none"'])
@pytest.mark.parametrize("build", ["t.js", "t.full.js"])
async def test_the_endpoint_is_asked_in_the_visit_in_which_the_person_agrees_and_once(
    page: Page, context: BrowserContext, sink: Sink, build: str, attributes: str
) -> None:
    setting(sink)
    sink.build, sink.attributes = build, f'data-cookie="server" {attributes}'
    await page.goto(at(sink, "www.shop.com.vn"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.track('Before')")  # the visit has begun
    assert sink.asked == []
    await page.evaluate("tracker.consent(true); tracker.identify('u1')")
    await until(lambda: sink.asked)
    await page.evaluate("tracker.consent(true); tracker.track('After')")
    await page.goto(at(sink, "www.shop.com.vn", "/next"))
    await page.wait_for_function("tracker.loaded")
    await page.evaluate("tracker.consent(true); tracker.track('Next')")
    await until(lambda: "Next" in [e.get("event") for e in sink.events()])
    [cookie] = [c for c in await context.cookies() if c["name"] == "trk_anonymous_id"]
    assert [f"id={cookie['value']}" in query for query in sink.asked] == [True]


@pytest.mark.parametrize(
    ("before", "host", "told"),
    [
        ("other.com.vn", "www.shop.com.vn", "other.com.vn"),
        ("blog.shop.com.vn", "www.shop.com.vn", None),
        ("shop.com.vn", "www.shop.com.vn", None),
        ("myads.vn", "ads.vn", "myads.vn"),
        ("www.ads.vn", "ads.vn", None),
        ("a.shop.test", "b.shop.test", None),
        ("shop.test", "127.0.0.1", "shop.test"),
    ],
)
async def test_a_referrer_is_the_sites_own_only_on_its_domain(
    page: Page, sink: Sink, before: str, host: str, told: str | None
) -> None:
    sink.headers = {"Referrer-Policy": "unsafe-url"}
    await page.goto(at(sink, before))
    await go(page, at(sink, host, "/landing"))
    await page.evaluate("tracker.page()")
    await until(lambda: sink.events())
    assert sink.events()[0]["context"]["attribution"]["first"].get("referrer") == told


async def test_before_consent_a_referrer_is_the_sites_own_under_its_host_and_nothing_is_stored_to_find_out(
    page: Page, context: BrowserContext, sink: Sink
) -> None:
    sink.attributes = 'data-consent="required"'
    sink.headers = {"Referrer-Policy": "unsafe-url"}
    await page.goto(at(sink, "shop.com.vn"))
    await go(page, at(sink, "www.shop.com.vn", "/landing"))
    await page.evaluate("tracker.page()")
    assert await context.cookies() == []
    await page.evaluate("tracker.consent(true)")
    await until(lambda: sink.events())
    assert "referrer" not in sink.events()[0]["context"]["attribution"]["first"]


async def test_script_and_batch_path_of_other_names_work_end_to_end(page: Page, sink: Sink) -> None:
    sink.attributes = 'data-path="/s/in" data-global="shop"'
    await page.route("**/s/app.js", lambda route: route.fulfill(path=STATIC / "t.js", content_type="text/javascript"))
    sink.html = (
        f'<!doctype html><script src="/s/app.js" data-write-key="k-123456" {sink.attributes}></script>'
        "<script>shop.track('Renamed')</script>"
    )
    await page.goto(sink.url)
    await until(lambda: sink.events())
    assert (sink.requests[0]["path"], sink.events()[0]["event"]) == ("/s/in", "Renamed")
