"""Every route of other vendors' clients, as they call it, against the real endpoint and Kafka."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.clients.drive import read_all
from tests.endpoint import Http
from tests.harness import Site, Stack, run_async
from tracker import metrics
from tracker.compat import GIF
from tracker.contract.topics import EVENTS
from tracker.routes import ROUTES

pytestmark = pytest.mark.integration

OTHERS: Final = ("/v1/merge", "/beacon/v1/batch", "/api/s/track", "/api/s/s2s/batch")
"""One route of each kind."""


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    return stack.site()


@pytest.fixture
def http(stack: Stack) -> Iterator[Http]:
    with Http(stack.settings.http_port) as client:
        yield client


def message(path: str, **more: Any) -> dict[str, Any]:
    """What a client sends to this path, by the user `path`."""
    event = {"type": "track", "event": "A", "userId": path, "previousId": "p", "groupId": "g", **more}
    if path == "/v1/merge":
        event = {**event, "type": "merge", "mergeProperties": [{"type": "email", "value": "a@example.com"}]}
    return {"batch": [event, {**event, "type": "page"}]} if ROUTES[path].batch else event


@pytest.fixture(scope="module")
def answers(stack: Stack, site: Site) -> tuple[dict[str, tuple[int, str, Any]], dict[str, list[dict[str, Any]]]]:
    """Path -> its answer: status, Content-Type, body; path -> its events."""
    found = {}
    with Http(stack.settings.http_port) as http:
        for path in ROUTES:
            status, headers, body = http.post(path, message(path), X_Write_Key=site.write_key)
            found[path] = status, headers["content-type"], body
    events: dict[str, list[dict[str, Any]]] = {path: [] for path in ROUTES}
    for event in run_async(read_all(stack, EVENTS, site)):
        events.setdefault(event["userId"], []).append(event)
    return found, events


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_as_its_client_expects(answers: Any, path: str) -> None:
    found, events = answers
    ok = {"success": True, "ok": True} if path.startswith("/api/s/") else {"success": True}
    assert found[path] == (200, "application/json", ok)
    kind = ROUTES[path].type or "track"  # /api/s/event: the body's
    expected = ["page", "track"] if ROUTES[path].batch else ["identify" if kind == "merge" else kind]
    assert sorted(event["type"] for event in events[path]) == expected


def test_a_merge_call_is_an_identify_call_with_the_identifiers_as_traits(answers: Any) -> None:
    [event] = answers[1]["/v1/merge"]
    assert event["traits"] == {"email": "a@example.com"}
    assert "mergeProperties" not in event


@pytest.mark.parametrize("path", OTHERS)
def test_errors_are_json_that_no_client_stumbles_over(http: Http, site: Site, path: str) -> None:
    for status, code, body, headers in (
        (401, "missing_key", message(path), {}),
        (401, "invalid_key", message(path), {"X_Write_Key": "nobody:knows"}),
        (400, "invalid_json", b"{", {"X_Write_Key": site.write_key}),
    ):
        found, answered, answer = http.post(path, body, Origin="https://shop.example", **headers)
        assert (found, answer["success"], answer["code"]) == (status, False, code)
        assert answer["message"]
        assert answered["access-control-allow-origin"] == "*"
        assert "www-authenticate" not in answered


@pytest.mark.parametrize("path", OTHERS)
def test_the_content_type_says_nothing_and_gzip_is_known_by_itself(http: Http, site: Site, path: str) -> None:
    body = json.dumps(message(path)).encode()
    key = {"X_Write_Key": site.write_key}
    for content_type in ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/octet-stream"):
        assert http.post(path, body, Content_Type=content_type, **key)[0] == 200
        assert http.post(path, gzip.compress(body), Content_Type=content_type, **key)[0] == 200


@pytest.mark.parametrize("path", OTHERS)
def test_verbose_tells_of_each_event(http: Http, site: Site, path: str) -> None:
    body = message(path, messageId=f"twice-{path}")
    first, again = (http.post(f"{path}?verbose=1", body, X_Write_Key=site.write_key)[2] for _ in range(2))
    assert first["success"] is again["success"] is True
    assert first["results"][0] == {"messageId": f"twice-{path}", "status": "ok"}
    assert {result["status"] for result in again["results"]} == {"duplicate"}


def test_a_beacon_has_its_key_in_the_address(http: Http, site: Site) -> None:
    path = "/beacon/v1/batch"
    assert http.post(f"{path}?writeKey={site.write_key}", message(path), Content_Type="text/plain")[0] == 200
    status, _, answer = http.post(f"{path}?writeKey={site.secret_key}", message(path))
    assert (status, answer["code"]) == (401, "misplaced_secret_key")


@pytest.mark.parametrize("how", ["header", "basic"])
def test_of_jitsus_keys_the_part_before_the_colon_counts(http: Http, site: Site, how: str) -> None:
    key = f"{site.write_key}:what-jitsu-calls-the-secret"
    basic = "Basic " + base64.b64encode(key.encode()).decode()
    headers = {"X_Write_Key": key} if how == "header" else {"Authorization": basic}
    body = {**message("/api/s/track"), "writeKey": f"{site.write_key}:***"}
    assert http.post("/api/s/track", body, **headers)[2] == {"success": True, "ok": True}


def test_segments_browser_client_is_told_to_send_here(http: Http, site: Site, stack: Stack) -> None:
    status, headers, found = http.request("GET", f"/v1/projects/{site.write_key}/settings")
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    ours = found["integrations"].pop("Segment.io")
    assert found["integrations"] == {}
    assert ours["apiKey"] == site.write_key
    assert (ours["protocol"], ours["apiHost"]) == ("http", f"{urlsplit(stack.http).netloc}/v1")
    assert found["metrics"] == {"sampleRate": 0}


def test_rudderstacks_clients_are_told_of_a_source_without_destinations(http: Http, site: Site, stack: Stack) -> None:
    basic = "Basic " + base64.b64encode(f"{site.write_key}:".encode()).decode()
    for path, headers in (
        ("/sourceConfig/?p=npm&v=3.34.1", {"Authorization": basic}),
        (f"/sourceConfig/?writeKey={site.write_key}", {}),
        (f"/sourceConfig?writeKey={site.write_key}", {}),
    ):
        status, answered, found = http.request("GET", path, **headers)
        assert (status, answered["access-control-allow-origin"]) == (200, "*")
        source = found["source"]
        assert (source["writeKey"], source["enabled"], source["destinations"]) == (site.write_key, True, [])
        assert source["dataplanes"]["US"] == [{"url": stack.http, "default": True}]
        assert source["config"]["statsCollection"]["errors"] == {"enabled": False}


def test_a_pages_preflight_for_its_settings_is_answered(http: Http) -> None:
    status, headers, _ = http.request(
        "OPTIONS", "/sourceConfig/", Origin="https://shop.example", Access_Control_Request_Method="GET",
        Access_Control_Request_Headers="authorization",
    )  # fmt: skip
    assert status == 204
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-headers"] == "authorization"
    assert "GET" in headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/v1/projects/{}/settings", "/sourceConfig/?writeKey={}"])
def test_settings_are_for_those_who_have_a_write_key(http: Http, site: Site, path: str) -> None:
    for key, code in (("nobody-knows-it", "invalid_key"), (site.secret_key, "misplaced_secret_key")):
        status, headers, answer = http.request("GET", path.format(key), Origin="https://shop.example")
        assert (status, answer["success"], answer["code"]) == (401, False, code)
        assert headers["access-control-allow-origin"] == "*"
        assert site.secret_key not in json.dumps(answer)


async def test_a_pixel_is_an_event(http: Http, site: Site, stack: Stack) -> None:
    name = quote("Mở thư 💌")
    query = (
        f"writeKey={site.write_key}&anonymousId=%22amp-1%22&event={name}&properties.a.b=1&context.page.title=T%C3%A9"
    )
    status, headers, body = http.request("GET", f"/pixel/v1/track?{query}")
    assert (status, headers["content-type"], body) == (200, "image/gif", GIF)
    assert headers["cache-control"] == "no-store"
    query = f"writeKey={site.write_key}&anonymousId=amp-1&name=Trang&properties.url=https://shop.example/"
    assert http.request("GET", f"/pixel/v1/page?{query}")[0] == 200
    events = await stack.consume(EVENTS, 2, site=site, match=lambda value: value.get("anonymousId") == "amp-1")
    by_type = {event["type"]: event for event in events}
    assert by_type["track"]["event"] == "Mở thư 💌"
    assert by_type["track"]["properties"] == {"a": {"b": "1"}}
    assert by_type["track"]["context"]["page"]["title"] == "Té"
    assert by_type["page"]["name"] == "Trang"


def test_a_pixel_that_is_refused_is_an_image_all_the_same(http: Http, site: Site) -> None:
    for query, status, code in (
        ("anonymousId=a&event=A", 401, "missing_key"),
        ("writeKey=nobody-knows-it&anonymousId=a&event=A", 401, "invalid_key"),
        (f"writeKey={site.write_key}&anonymousId=a", 400, "missing_event"),
        (f"writeKey={site.write_key}&event=A", 400, "missing_id"),
    ):
        found, headers, body = http.request("GET", f"/pixel/v1/track?{query}")
        assert (found, headers["x-refused"], headers["content-type"], body) == (status, code, "image/gif", GIF)
    status, headers, body = http.request("POST", "/pixel/v1/track", {})
    assert (status, headers["x-refused"]) == (405, "method_not_allowed")


async def test_a_scanner_that_asks_for_a_pixels_head_has_seen_nothing(http: Http, site: Site, stack: Stack) -> None:
    query = f"writeKey={site.write_key}&anonymousId=scanner&event="
    status, headers, body = http.request("HEAD", f"/pixel/v1/track?{query}Scanned")
    assert (status, headers["content-type"], body) == (200, "image/gif", b"")
    assert http.request("GET", f"/pixel/v1/track?{query}Seen")[0] == 200
    found = await stack.consume(EVENTS, 1, site=site, match=lambda value: value.get("anonymousId") == "scanner")
    assert [event["event"] for event in found] == ["Seen"]


def test_what_these_routes_count_is_a_closed_set(http: Http, site: Site) -> None:
    def counts() -> dict[tuple[str, str, str], float]:
        text = http.request("GET", "/metrics")[2].decode()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        found = (s for s in samples if s.name == "tracker_http_requests_total")
        return {(s.labels["route"], s.labels["method"], s.labels["code"]): s.value for s in found}

    asked = {
        ("GET", f"/v1/projects/{site.write_key}/settings"): ("/v1/projects", "200"),
        ("GET", "/v1/projects/made-up-1/settings"): ("/v1/projects", "401"),
        ("GET", f"/sourceConfig/?writeKey={site.write_key}"): ("/sourceConfig", "200"),
        ("GET", "/pixel/v1/track"): ("/pixel", "401"),
        ("HEAD", "/pixel/v1/page"): ("/pixel", "200"),
        ("GET", "/pixel/v1/made-up-3"): ("other", "404"),
        ("POST", f"/api/s/s2s/event?writeKey={site.write_key}"): ("/api/s", "200"),
        ("POST", "/api/s/made-up-2"): ("/api", "404"),
        ("POST", "/beacon/v1/batch"): ("/beacon/v1/batch", "400"),
    }
    before = counts()
    for method, path in asked:
        http.request(method, path, message("/api/s/event") if method == "POST" else None)
    after = counts()
    for (method, _), (route, code) in asked.items():
        series = (route, method, code)
        assert after[series] > before.get(series, 0), series
    assert {route for route, _, _ in after} <= set(metrics.ROUTES)
