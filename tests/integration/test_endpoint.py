"""What the endpoint takes: every route, every place of a key; what of it is in Kafka and in the metrics."""

from __future__ import annotations

import base64
import gzip
import json
import time
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.endpoint import (
    SHOP,
    Http,
    basic,
    metric,
)
from tests.harness import PARTITIONS, Stack
from tracker.contract.codec import partition_of
from tracker.contract.topics import DEAD_LETTERS, EVENTS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        *((f"/v1/{kind}", kind) for kind in ("track", "page", "screen", "identify", "group", "alias")),
        *((f"/v1/{kind[0]}", kind) for kind in ("track", "page", "screen", "identify", "group", "alias")),
    ],
)
async def test_every_call_is_in_kafka_when_it_is_acked(stack: Stack, path: str, type_: str) -> None:
    site = stack.site() if path == "/v1/track" else stack.sites[0]
    user = f"user {path} {time.time_ns()}"
    message = {"userId": user, "event": "Thing Done", "previousId": "p", "groupId": "g", "properties": {"a": [1, "é"]}}
    status, answer = await stack.request("POST", path, message, key=site.write_key)
    assert (status, answer) == (200, {"success": True})
    [event] = await stack.consume(EVENTS, 1, site=site, match=lambda value: value.get("userId") == user)
    assert event["type"] == type_
    assert event["properties"] == {"a": [1, "é"]}
    assert event.get("event") == ("Thing Done" if type_ == "track" else None)
    assert abs(event["receivedAtMs"] - time.time() * 1000) < 60_000


async def test_the_events_of_one_visitor_are_in_one_partition_in_order(stack: Stack, shop: int) -> None:
    visitor = f"visitor-{time.time_ns()}"
    with Http(shop) as client:
        for start in range(0, 60, 20):
            batch = [{"type": "page", "anonymousId": visitor, "messageId": f"m{start + i}"} for i in range(20)]
            assert client.post("/v1/batch", {"batch": batch}, X_Write_Key=SHOP.write_key)[0] == 200
    where = TopicPartition(EVENTS, partition_of(visitor.encode(), PARTITIONS))
    found: list[str] = []
    async with AIOKafkaConsumer(bootstrap_servers=stack.settings.kafka, enable_auto_commit=False) as consumer:
        consumer.assign([where])
        await consumer.seek_to_beginning(where)
        end = (await consumer.end_offsets([where]))[where]
        while await consumer.position(where) < end:
            record = await consumer.getone()
            if visitor.encode() in record.value:  # others' may be no JSON: some tests write poison
                assert record.key == visitor.encode()
                found.append(json.loads(record.value)["messageId"])
    assert found == [f"m{i}" for i in range(60)]


@pytest.mark.parametrize("how", ["basic", "header", "body", "query", "batch body"])
def test_the_key_is_taken_from_where_clients_put_it(shop: int, how: str) -> None:
    message = {"userId": "u", "event": "A"}
    with Http(shop) as client:
        if how == "basic":
            answer = client.post("/v1/track", message, Authorization=basic(SHOP.write_key))
        elif how == "header":
            answer = client.post("/v1/track", message, X_Write_Key=SHOP.write_key)
        elif how == "body":
            answer = client.post("/v1/track", {**message, "writeKey": SHOP.write_key})
        elif how == "query":
            answer = client.post(f"/v1/track?writeKey={SHOP.write_key}", message)
        else:
            answer = client.post("/v1/batch", {"writeKey": SHOP.write_key, "batch": [{**message, "type": "track"}]})
    assert answer[0::2] == (200, {"success": True})
    assert answer[1]["content-type"] == "application/json"


def test_the_first_place_of_a_key_decides(shop: int) -> None:
    message = {"userId": "u", "event": "A", "writeKey": SHOP.write_key}
    with Http(shop) as client:
        assert client.post("/v1/track", message, Authorization=basic("unknown-key"))[0] == 401
        assert client.post("/v1/track", message, Authorization="Basic ***")[0] == 401
        masked = {**message, "writeKey": "shop:***"}
        assert client.post("/v1/track", masked, X_Write_Key=SHOP.write_key)[0] == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x", ""])
def test_the_content_type_is_ignored(shop: int, content_type: str) -> None:
    body = {"userId": "u", "event": "A", "writeKey": SHOP.write_key}
    with Http(shop) as client:
        assert client.post("/v1/track", body, Content_Type=content_type)[0] == 200
        packed = gzip.compress(json.dumps(body).encode())
        assert client.post("/v1/track", packed, Content_Type=content_type)[0] == 200
        assert client.post("/v1/track", packed, Content_Type=content_type, Content_Encoding="gzip")[0] == 200


async def test_an_import_keeps_its_past_and_a_client_does_not(stack: Stack) -> None:
    site = stack.site()
    message = {"type": "track", "event": "A", "timestamp": "2020-01-01T00:00:00Z"}
    for key, user in ((site.secret_key, "imported"), (site.write_key, "sent")):
        status, _ = await stack.request("POST", "/v1/batch", {"batch": [{**message, "userId": user}]}, key=key)
        assert status == 200
    events = {e["userId"]: e for e in await stack.consume(EVENTS, 2, site=site)}
    assert events["imported"]["timestampMs"] == 1577836800000
    assert events["imported"]["source"] == "import"
    assert events["sent"]["timestampMs"] == events["sent"]["receivedAtMs"]
    assert events["sent"].get("source", "client") == "client"


async def test_a_bad_event_of_a_batch_goes_to_the_dead_letters_whole(stack: Stack) -> None:
    site = stack.site()
    good = {"type": "track", "event": "A", "userId": "u", "messageId": "good"}
    bad: list[Any] = [{"type": "track", "userId": "u", "messageId": "nameless"}, 7, {"type": "track", "event": "B"}]
    body = {"batch": [bad[0], good, *bad[1:], {**good, "messageId": "too-late", "timestamp": "?"}]}
    status, answer = await stack.request("POST", "/v1/batch?verbose=1", body, key=site.write_key)
    assert status == 200
    assert answer["success"] is True
    assert [(r["messageId"], r["status"], r.get("reason")) for r in answer["results"]] == [
        ("nameless", "rejected", "missing_event"),
        ("good", "ok", None),
        (None, "rejected", "wrong_type"),
        (None, "rejected", "missing_id"),
        ("too-late", "rejected", "bad_timestamp"),
    ]
    assert [e["messageId"] for e in await stack.consume(EVENTS, 1, site=site)] == ["good"]
    letters = await stack.consume(DEAD_LETTERS, 4, site=site)
    assert [letter["reason"] for letter in letters] == ["missing_event", "wrong_type", "missing_id", "bad_timestamp"]
    assert [json.loads(base64.b64decode(letter["original"])) for letter in letters[:3]] == bad
    for letter in letters:
        assert letter["stage"] == "endpoint"
        assert letter["detail"]
        assert abs(letter["atMs"] - time.time() * 1000) < 60_000


async def test_an_oversized_event_of_a_batch_is_refused_alone(stack: Stack, shop: int) -> None:
    user = f"user-{time.time_ns()}"
    batch = [
        {"type": "track", "event": "A", "userId": user},
        {"type": "track", "event": "Big", "userId": user, "properties": {"x": "y" * 5000}},
    ]
    before = metric(shop, "tracker_dead_letters_total", reason="event_too_large")
    with Http(shop) as client:
        status, _, answer = client.post("/v1/batch?verbose=1", {"batch": batch}, X_Write_Key=SHOP.write_key)
    assert status == 200
    assert [r["status"] for r in answer["results"]] == ["ok", "rejected"]
    is_it = user.encode()
    letters = await stack.consume(
        DEAD_LETTERS, 1, site="shop", match=lambda value: is_it in base64.b64decode(value["original"])
    )
    assert letters[0]["reason"] == "event_too_large"
    assert len(base64.b64decode(letters[0]["original"])) == 4096
    assert "4096" in letters[0]["detail"]
    assert metric(shop, "tracker_dead_letters_total", reason="event_too_large") == before + 1


def test_accepted_events_are_counted_by_type_and_source(shop: int) -> None:
    def counts() -> list[float]:
        return [
            metric(shop, "tracker_events_accepted_total", source="client", type="track"),
            metric(shop, "tracker_events_accepted_total", source="import", type="page"),
            metric(shop, "tracker_site_events_accepted_total", site="shop"),
            metric(shop, "tracker_events_rejected_total", reason="missing_id"),
            metric(shop, "tracker_events_clamped_total"),
            metric(shop, "tracker_http_requests_total", route="/v1/batch", method="POST", code="200"),
            metric(shop, "tracker_kafka_produce_duration_seconds_count"),
        ]

    before = counts()
    with Http(shop) as client:
        batch = [{"type": "track", "event": "A", "userId": "u", "timestamp": "1999-01-01"}] * 2 + [{"type": "page"}]
        assert client.post("/v1/b", {"batch": batch}, X_Write_Key=SHOP.write_key)[0] == 200
        assert client.post("/v1/b", {"batch": [{"type": "page", "userId": "u"}]}, X_Write_Key=SHOP.secret_key)[0] == 200
    grown = [after - b for after, b in zip(counts(), before, strict=True)]
    assert grown[:6] == [2, 1, 3, 1, 2, 2]
    assert grown[6] >= 2
