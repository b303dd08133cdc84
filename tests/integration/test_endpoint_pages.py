"""The pages beside the events: the snippet, the metrics, the OpenAPI document."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.endpoint import (
    SHOP,
    Http,
)
from tests.harness import Stack
from tracker.contract.topics import EVENTS
from tracker.routes import ROUTES

pytestmark = pytest.mark.integration


def test_the_snippet_is_cached_and_compressed(shop: int) -> None:
    built = (Path(__file__).parents[2] / "tracker" / "static" / "t.js").read_bytes()
    with Http(shop) as client:
        status, plain, body = client.request("GET", "/t.js")
        assert (status, body) == (200, built)
        assert plain["content-type"] == "text/javascript; charset=utf-8"
        assert plain["cache-control"].startswith("public, max-age=")
        assert plain["vary"] == "Accept-Encoding"
        status, packed, body = client.request("GET", "/t.js", Accept_Encoding="gzip, br")
        assert (status, packed["content-encoding"], gzip.decompress(body)) == (200, "gzip", built)
        assert packed["etag"] != plain["etag"]
        for headers, encoding in ((plain, ""), (packed, "gzip")):
            again = client.request("GET", "/t.js", If_None_Match=headers["etag"], Accept_Encoding=encoding)
            assert (again[0], again[2], again[1]["etag"]) == (304, b"", headers["etag"])
        assert client.request("GET", "/t.js", If_None_Match='"other"')[0] == 200
        assert client.request("HEAD", "/t.js")[2] == b""


@pytest.mark.parametrize("name", ["t.lite.js", "t.full.js", "t.sw.js"])
def test_each_build_of_the_snippet_is_served(shop: int, name: str) -> None:
    built = (Path(__file__).parents[2] / "tracker" / "static" / name).read_bytes()
    with Http(shop) as client:
        assert client.request("GET", f"/{name}")[::2] == (200, built)


async def test_what_a_stub_sends_is_in_kafka_as_messages(stack: Stack) -> None:
    site = stack.site()
    calls = [[1_793_588_645_678, "page"], [1_793_588_645_679, "track", "Seen", {"n": 1}], [1, "ready", None]]
    body = json.dumps(["https://shop.example/a?utm_source=zalo", "", calls, 1_793_588_646_000]).encode()
    for headers, anonymous_id in (({"Cookie": "a=b; trk_anonymous_id=known-1; c=d"}, "known-1"), ({}, "stub-")):
        with Http(stack.settings.http_port) as client:
            path = f"/v1/batch?writeKey={site.write_key}"
            status, _, answer = client.request("POST", path, body, Content_Type="text/plain", **headers)
            assert (status, answer) == (200, {"success": True})
        mine = lambda e, start=anonymous_id: e["anonymousId"].startswith(start)  # noqa: E731
        found = await stack.consume(EVENTS, 2, site=site, match=mine)
        assert sorted(e.get("event", e["type"]) for e in found) == ["Seen", "page"]
        assert {e["campaign"]["source"] for e in found} == {"zalo"}
        assert len({e["anonymousId"] for e in found}) == 1


def test_the_start_page_leads_to_the_demo_where_there_is_one(stack: Stack, shop: int) -> None:
    with Http(stack.settings.http_port) as client:
        status, headers, _ = client.request("GET", "/")
        assert (status, headers["location"]) == (307, "/demo/")
    with Http(shop) as client:
        status, _, body = client.request("GET", "/")
        assert status == 200
        assert b"/t.js" in body


def test_series_are_there_before_anything_happened(shop: int) -> None:
    with Http(shop) as client:
        text = client.request("GET", "/metrics")[2].decode()
    for series in (
        'tracker_events_accepted_total{source="import",type="alias"}', 'tracker_dead_letters_total{reason="too_deep"}',
        'tracker_kafka_produce_errors_total{retryable="false"}', 'tracker_site_events_accepted_total{site="other"}',
        "tracker_build_info{", "tracker_producer_queue_events ", "process_cpu_seconds_total ",
    ):  # fmt: skip
        assert f"\n{series}" in text
    assert "_created" not in text


def test_made_up_names_add_no_series(shop: int) -> None:
    def series() -> set[str]:
        with Http(shop) as client:
            text = client.request("GET", "/metrics")[2].decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    with Http(shop) as client:
        for path in ("/warm", "/v1/track"):  # each kind of answer has been there once
            client.request("GET", path)
        client.post("/v1/track", {"userId": "u", "event": "warm"}, X_Write_Key=SHOP.write_key)
        client.post("/v1/track", {"userId": "u", "event": "warm"}, X_Write_Key="unknown-key")
        client.request("BREW", "/warm")
        client.request("BREW", "/v1/track")
        before = series()
        for i in range(100):
            client.request("GET", f"/made/up/{i}")
            client.request(f"BREW{i}", "/warm")
            client.request(f"BREW{i}", "/v1/track")
            client.post("/v1/track", {"userId": f"u{i}", "event": f"e{i}"}, X_Write_Key=SHOP.write_key)
            client.post("/v1/track", {"userId": f"u{i}", "event": f"e{i}"}, X_Write_Key=f"unknown-key-{i}")
    assert series() == before


def test_one_wants_no_docs_from_a_cdn(shop: int) -> None:
    with Http(shop) as client:
        assert client.request("GET", "/docs")[0] == 404
        status, _, document = client.request("GET", "/openapi.json")
    assert status == 200
    paths = (
        "counters", "visitors", "carts", "ranking", "engagement", "segments", "profiles/{id_type}/{value}",
        "messages", "feedback", "sales", "steps", "retention", "usage",
    )  # fmt: skip
    read = {f"/api/v1/sites/{{site}}/{path}" for path in paths}
    assert set(document["paths"]) == read | set(ROUTES)
