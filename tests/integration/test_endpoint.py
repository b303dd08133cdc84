"""The endpoint as a process over the real Kafka: every route, every refusal, Kafka away, its end."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import PARTITIONS, Servers, Site, Stack, eventually, run_async
from tracker.cli import topics as topics_command
from tracker.cli.up import ready
from tracker.contract.codec import partition_of
from tracker.contract.settings import DEMO_WRITE_KEY
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.embedded.process import Child, free_port, wait_until

pytestmark = pytest.mark.integration

SHOP = Site("shop", "shop-write-key", "shop-secret-key")
"""A site that lists its origins, in the endpoints that a test starts for itself."""
CONFIG = """
[sites.shop]
write_key = "shop-write-key"
secret_key = "shop-secret-key"
origins = ["https://shop.example", "https://www.shop.example/"]
"""


class Http:
    """One connection that is kept. Answers are (status, headers in lower case, body: JSON where it is JSON)."""

    def __init__(self, port: int, timeout_s: float = 20) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = self.connection.getresponse()
        text = answer.read()
        found = {k.lower(): v for k, v in answer.getheaders()}
        return answer.status, found, json.loads(text) if found.get("content-type") == "application/json" else text

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
        return self.request("POST", path, body, **headers)


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


@contextmanager
def endpoint(folder: Path, kafka: str, redis: str = "redis://127.0.0.1:1/0", **settings: Any) -> Iterator[Child]:
    """`tracker serve` of a test's own, started and listening (`child.port`), ended with the test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tracker.toml").write_text(CONFIG, "utf-8")
    chosen = {"kafka": kafka, "redis": redis, "http_port": free_port(), "partitions": PARTITIONS, **settings}
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
    env |= {f"TRACKER_{k.upper()}": str(v) for k, v in chosen.items()} | {"PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [os.sys.executable, "-m", "tracker.cli", "serve"]  # type: ignore[attr-defined]
    child = Child("endpoint", argv, folder / "endpoint.log", env=env, cwd=folder, grace_s=20).start()
    try:
        wait_until(lambda: alive(chosen["http_port"]), [child], 30, "the endpoint")
        yield child
    finally:
        child.stop()


def port_of(child: Child) -> int:
    assert child.env is not None
    return int(child.env["TRACKER_HTTP_PORT"])


def alive(port: int) -> bool:
    try:
        with Http(port, 2) as client:
            return client.request("GET", "/livez")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an endpoint with small limits and the site `shop`, over the Kafka of all."""
    limits = {"max_request_bytes": 64 * 1024, "max_event_bytes": 4096, "max_batch_events": 20}
    with endpoint(tmp_path_factory.mktemp("shop"), stack.settings.kafka, stack.settings.redis, **limits) as child:
        wait_until(lambda: ready("127.0.0.1", port_of(child)), [child], 30, "the endpoint")
        yield port_of(child)


def metric(port: int, name: str, **labels: str) -> float:
    """Sum of the samples of `name` that have these labels."""
    with Http(port) as client:
        text = client.request("GET", "/metrics")[2].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


# -- what is taken


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
    from aiokafka import AIOKafkaConsumer, TopicPartition

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


# -- what is refused


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/track", b"{", 400, "invalid_json"),
        ("/v1/track", b"", 400, "invalid_json"),
        ("/v1/track", b"\xff", 400, "invalid_json"),
        ("/v1/track", b"[]", 400, "wrong_type"),
        ("/v1/track", {"event": "A"}, 400, "missing_id"),
        ("/v1/track", {"userId": "u"}, 400, "missing_event"),
        ("/v1/page", {"userId": "u", "properties": {"x": "y" * 5000}}, 413, "event_too_large"),
        ("/v1/batch", {"userId": "u"}, 400, "invalid_batch"),
        ("/v1/batch", {"batch": [{}] * 21}, 413, "too_many_events"),
        ("/v1/batch", b'{"batch":[' + b" " * 70_000 + b"]}", 413, "request_too_large"),
        ("/v1/batch", gzip.compress(b" " * 70_000), 413, "request_too_large"),
        ("/v1/batch", gzip.compress(b" " * 1000)[:-9], 400, "bad_compression"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_code_and_a_hint(
    shop: int, path: str, body: Any, status: int, code: str
) -> None:
    before = metric(shop, "tracker_events_rejected_total", reason=code)
    with Http(shop) as client:
        found, headers, answer = client.post(path, body, Authorization=basic(SHOP.write_key))
        assert (found, answer["success"], answer["code"]) == (status, False, code)
        assert answer["message"]
        assert answer["hint"]
        assert "www-authenticate" not in headers
        assert "retry-after" not in headers
        # The connection is of use after any refusal.
        sock = client.connection.sock
        assert client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)[0] == 200
        assert client.connection.sock is sock
    assert metric(shop, "tracker_events_rejected_total", reason=code) == before + 1


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({}, "", "missing_key"),
        ({"Authorization": basic("unknown-key")}, "", "invalid_key"),
        ({"X_Write_Key": "unknown-key"}, "", "invalid_key"),
        ({}, "?writeKey=unknown-key", "invalid_key"),
        ({}, f"?writeKey={SHOP.secret_key}", "misplaced_secret_key"),
    ],
)
def test_without_a_valid_key_nothing_is_taken(shop: int, headers: dict[str, str], query: str, code: str) -> None:
    with Http(shop) as client:
        for path in ("/v1/track", "/v1/batch"):
            status, found, answer = client.post(path + query, {"userId": "u", "event": "A", "batch": []}, **headers)
            assert (status, answer["code"]) == (401, code)
            assert "www-authenticate" not in found


def test_demo_keys_are_not_accepted_outside_of_the_demo(shop: int) -> None:
    with Http(shop) as client:
        assert client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=DEMO_WRITE_KEY)[0] == 401
        assert client.request("GET", "/demo/")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/track", 405, "method_not_allowed"),
        ("PUT", "/v1/batch", 405, "method_not_allowed"),
        ("DELETE", "/livez", 405, "method_not_allowed"),
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/track/", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
    ],
)
def test_unknown_routes_and_methods_are_told_in_json(shop: int, method: str, path: str, status: int, code: str) -> None:
    with Http(shop) as client:
        found, _, answer = client.request(method, path)
    assert (found, answer["success"], answer["code"]) == (status, False, code)


def test_a_body_far_over_the_limit_ends_the_connection(shop: int) -> None:
    with socket.create_connection(("127.0.0.1", shop), timeout=20) as sock:
        sock.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        received = b""
        try:
            for _ in range(200):
                sock.sendall(b" " * 64 * 1024)
        except OSError:
            pass  # refused while sending
        while part := _recv(sock):
            received += part
    if received:
        assert received.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in received.lower()


def _recv(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


# -- requests as they come over the socket: most are answered straight from the parser, the unusual ones by uvicorn


def raw(path: str = "/v1/track", body: Any = None, *lines: str, version: str = "1.1") -> bytes:
    message = {"userId": "u", "event": "A", "writeKey": SHOP.write_key} if body is None else body
    data = json.dumps(message).encode()
    head = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(data)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause_s)
        received = b""
        while part := _recv(sock):
            received += part
    return received


def test_pipelined_requests_are_answered_in_order(shop: int) -> None:
    batch = {"writeKey": SHOP.write_key, "batch": [{"type": "page", "userId": "u"}]}
    requests = [
        raw(), raw("/v1/track", {"event": "A", "writeKey": SHOP.write_key}), raw("/v1/b", batch),
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", raw("/v1/page?verbose=1"), raw("/v1/nothing"), raw(),
        raw("/v1/track", None, "Connection: close"),
    ]  # fmt: skip
    answers = exchange(shop, b"".join(requests)).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers] == [200, 400, 200, 200, 200, 404, 200, 200]
    assert b"missing_id" in answers[1]
    assert b'"ok"' in answers[3]
    assert b"messageId" in answers[4]
    assert b"connection: close" in answers[-1]


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_a_request_may_come_in_any_pieces(shop: int, pause_s: float) -> None:
    request = raw("/v1/track", None, "Connection: close")
    step = 1 if not pause_s else 40
    answer = exchange(shop, *(request[i : i + step] for i in range(0, len(request), step)), pause_s=pause_s)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert answer.endswith(b'{"success":true}')
    assert b"server:" not in answer


def test_a_body_in_chunks_is_taken(shop: int) -> None:
    message = json.dumps({"userId": "u", "event": "A", "writeKey": SHOP.write_key}).encode()
    head = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\nX-Write-Key: unknown-key\r\n\r\n" % (
        5, message[:5], len(message) - 5, message[5:],
    )  # fmt: skip
    assert exchange(shop, head + chunks).startswith(b"HTTP/1.1 200 ")


def test_who_expects_100_continue_hears_it_first(shop: int) -> None:
    head, _, body = raw("/v1/track", None, "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
    answer = exchange(shop, head + b"\r\n\r\n", body, pause_s=0.2)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


def test_an_old_client_gets_its_answer_and_the_connection_ends(shop: int) -> None:
    answer = exchange(shop, raw(version="1.0"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


async def test_nothing_counts_that_stands_behind_the_end_of_a_connection(stack: Stack, shop: int) -> None:
    first, behind = f"first-{time.time_ns()}", f"behind-{time.time_ns()}"
    key = {"event": "A", "writeKey": SHOP.write_key}
    for last in (
        raw("/v1/track", {**key, "userId": first}, "Connection: close"),  # waits for Kafka
        raw("/v1/track", key, "Connection: close"),  # refused at once
    ):
        answer = await asyncio.to_thread(exchange, shop, last + raw("/v1/track", {**key, "userId": behind}))
        assert answer.count(b"HTTP/1.1 ") == 1
    assert (await stack.request("POST", "/v1/page", {"userId": "u"}, key=stack.sites[0].write_key))[0] == 200
    values = await _values(stack.settings.kafka)
    assert sum(first.encode() in value for value in values) == 1
    assert not any(behind.encode() in value for value in values)


@pytest.mark.parametrize(
    "lines",
    [
        ("Transfer-Encoding: chunked",),  # beside Content-Length
        ("Content-Length: 1",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +5",),
        ("X: a\n\n",),
    ],
)
def test_a_request_of_two_readings_is_refused_and_the_connection_ends(shop: int, lines: tuple[str, ...]) -> None:
    answer = exchange(shop, raw("/v1/track", None, *lines))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_who_hangs_up_before_the_ack_loses_nothing_and_harms_nobody(stack: Stack, shop: int) -> None:
    user = f"gone-{time.time_ns()}"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", shop)) as sock:
            sock.sendall(raw("/v1/track", {"userId": user, "event": "A", "writeKey": SHOP.write_key}))
    events = await stack.consume(EVENTS, 20, site="shop", match=lambda value: value.get("userId") == user)
    assert len(events) == 20
    with Http(shop) as client:
        assert client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)[0] == 200


def test_an_endless_body_in_chunks_is_cut_off(shop: int) -> None:
    head = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", shop), timeout=20) as sock:
        try:
            sock.sendall(head)
            for _ in range(200):
                sock.sendall(chunk)
        except OSError:
            pass  # refused while sending
        else:
            pytest.fail("it was read to its end")
        while part := _recv(sock):
            received += part
    assert received == b"" or received.startswith(b"HTTP/1.1 413")


# -- pages of other origins


def test_any_origin_may_send_to_a_site_that_lists_none(stack: Stack) -> None:
    with Http(stack.settings.http_port) as client:
        body = {"userId": "u", "event": "A", "writeKey": stack.sites[0].write_key}
        status, headers, _ = client.post("/v1/track", body, Origin="https://any.example")
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert headers["access-control-expose-headers"] == "Retry-After"
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["https://shop.example", "https://www.shop.example"])
def test_a_listed_origin_is_echoed(shop: int, origin: str) -> None:
    body = {"userId": "u", "event": "A", "writeKey": SHOP.write_key}
    with Http(shop) as client:
        status, headers, _ = client.post("/v1/track", body, Origin=origin)
        assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, origin, "Origin")
        refusal = client.post("/v1/track", {**body, "userId": None}, Origin=origin)
        assert (refusal[0], refusal[1]["access-control-allow-origin"]) == (400, origin)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://shop.example", "https://shop.example.evil"])
def test_another_origin_is_refused(shop: int, origin: str) -> None:
    body = {"userId": "u", "event": "A"}
    with Http(shop) as client:
        status, headers, answer = client.post("/v1/track", {**body, "writeKey": SHOP.write_key}, Origin=origin)
        assert (status, answer["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in headers
        # A server has no origin, and one with the secret key may name any.
        assert client.post("/v1/track", {**body, "writeKey": SHOP.write_key})[0] == 200
        assert client.post("/v1/track", body, X_Write_Key=SHOP.secret_key, Origin=origin)[0] == 200


def test_a_preflight_allows_the_headers_that_it_asks_for(shop: int) -> None:
    asked = "authorization,content-type,x-write-key,x-retry-count,anonymousid"
    ask = {
        "Origin": "https://shop.example",
        "Access_Control_Request_Headers": asked,
        "Access_Control_Request_Method": "POST",
    }
    with Http(shop) as client:
        status, headers, body = client.request("OPTIONS", "/v1/batch", **ask)
        assert (status, body) == (204, b"")
        assert headers["access-control-allow-headers"] == asked
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-max-age"] == "86400"
        assert "POST" in headers["access-control-allow-methods"]
        by_key = f"/v1/batch?writeKey={SHOP.write_key}"
        assert client.request("OPTIONS", by_key, **ask)[1]["access-control-allow-origin"] == "https://shop.example"
        other = client.request("OPTIONS", by_key, **{**ask, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other[1]


# -- the other pages


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
    assert set(document["paths"]) == {
        "/api/v1/sites/{site}/counters", "/api/v1/sites/{site}/profiles/{id_type}/{value}",
    }  # fmt: skip


# -- when Kafka is away


def test_without_kafka_it_lives_but_is_not_ready(tmp_path: Path) -> None:
    with endpoint(tmp_path, f"127.0.0.1:{free_port()}", drain_s=3) as child, Http(port_of(child)) as client:
        assert client.request("GET", "/livez")[0] == 200
        status, _, answer = client.request("GET", "/readyz")
        assert status == 503
        assert "Kafka" in answer["reason"]
        status, headers, answer = client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)
        assert (status, answer["code"]) == (503, "kafka_unavailable")
        assert int(headers["retry-after"]) > 0
        started_s = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - started_s < 6


def test_without_redis_events_are_taken_and_reading_says_503(stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka) as child, Http(port_of(child)) as client:
        wait_until(lambda: ready("127.0.0.1", port_of(child)), [child], 30, "the endpoint")
        assert client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)[0] == 200
        for path in ("counters", "profiles/user_id/u"):
            bearer = f"Bearer {SHOP.secret_key}"
            status, headers, answer = client.request("GET", f"/api/v1/sites/shop/{path}", Authorization=bearer)
            assert (status, answer["code"]) == (503, "redis_unavailable")
            assert int(headers["retry-after"]) > 0


def test_topics_with_other_partitions_are_told(stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka, partitions=PARTITIONS + 1) as child, Http(port_of(child)) as client:
        deadline = time.monotonic() + 20
        while "partitions" not in (reason := client.request("GET", "/readyz")[2].get("reason", "")):
            assert time.monotonic() < deadline, reason
            time.sleep(0.1)
        assert reason == f"topic {EVENTS} has {PARTITIONS} partitions, the setting `partitions` says {PARTITIONS + 1}"


async def test_a_frozen_kafka_means_503_in_time_and_nothing_acked_is_lost(
    own_servers: Callable[[], Servers], tmp_path: Path
) -> None:
    servers = own_servers()
    timeout_s = 1.5
    settings = {"produce_timeout_s": timeout_s, "max_pending_bytes": 1 << 20, "drain_s": 4}
    with endpoint(tmp_path, servers.kafka, servers.redis, **settings) as child:
        port = port_of(child)
        _create_topics(servers)
        await eventually(lambda: ready("127.0.0.1", port), 30)
        acked: list[str] = []
        threads = ThreadPoolExecutor(60)  # asyncio.to_thread has no more than a handful

        async def send(message_id: str, size: int = 10) -> tuple[int, float]:
            body = {"userId": message_id, "event": "A", "messageId": message_id, "properties": {"x": "y" * size}}

            def call() -> tuple[int, float]:
                started_s = time.monotonic()
                with Http(port) as client:
                    status = client.post("/v1/track", body, X_Write_Key=SHOP.write_key)[0]
                return status, time.monotonic() - started_s

            status, took_s = await asyncio.get_running_loop().run_in_executor(threads, call)
            if status == 200:
                acked.append(message_id)
            return status, took_s

        assert [status for status, _ in await asyncio.gather(*(send(f"before-{i}") for i in range(20)))] == [200] * 20
        kafka = servers.children["kafka"]
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(send(f"frozen-{i}") for i in range(20)))
            assert {status for status, _ in answers} == {503}
            assert max(took_s for _, took_s in answers) < timeout_s + 3
            # More than may wait: refused at once.
            flood = await asyncio.gather(*(send(f"flood-{i}", 30_000) for i in range(60)))
            assert {status for status, _ in flood} == {503}
            assert metric(port, "tracker_events_rejected_total", reason="overloaded") > 0
            assert metric(port, "tracker_events_rejected_total", reason="kafka_unavailable") >= 20
            assert metric(port, "tracker_producer_queue_bytes") <= 1 << 20
        finally:
            os.kill(kafka.pid, signal.SIGCONT)

        async def works_again() -> bool:
            return (await send(f"after-{time.time_ns()}"))[0] == 200

        await eventually(works_again, 30)
        assert [status for status, _ in await asyncio.gather(*(send(f"after-{i}") for i in range(20)))] == [200] * 20
        threads.shutdown()
        assert child.stop() == 0
        stored = await _message_ids(servers.kafka)
        assert set(acked) <= set(stored)
        assert all(stored.count(message_id) == 1 for message_id in acked)


async def test_a_restarted_kafka_is_found_again(own_servers: Callable[[], Servers], tmp_path: Path) -> None:
    servers = own_servers()
    with endpoint(tmp_path, servers.kafka, servers.redis, produce_timeout_s=2, drain_s=4) as child:
        port = port_of(child)
        _create_topics(servers)
        await eventually(lambda: ready("127.0.0.1", port), 30)
        body = {"userId": "u", "event": "A"}
        with Http(port) as client:
            assert client.post("/v1/track", body, X_Write_Key=SHOP.write_key)[0] == 200
            kafka = servers.children["kafka"]
            kafka.kill()
            started_s = time.monotonic()
            assert client.post("/v1/track", body, X_Write_Key=SHOP.write_key)[0] == 503
            assert time.monotonic() - started_s < 6
            kafka.start()

            def sends() -> bool:
                return client.post("/v1/track", body, X_Write_Key=SHOP.write_key)[0] == 200

            await eventually(lambda: asyncio.to_thread(sends), 60)


def _create_topics(servers: Servers) -> None:
    from tracker.contract.settings import load

    run_async(topics_command.create(load({}, kafka=servers.kafka, partitions=PARTITIONS)))


async def _message_ids(bootstrap: str) -> list[str]:
    """messageIds of every record of the events topic."""
    return [json.loads(value)["messageId"] for value in await _values(bootstrap)]


async def _values(bootstrap: str) -> list[bytes]:
    """Every record of the events topic."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    found: list[bytes] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        where = [TopicPartition(EVENTS, p) for p in range(PARTITIONS)]
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        ends = await consumer.end_offsets(where)
        while any([await consumer.position(tp) < ends[tp] for tp in where]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
    return found


# -- its end


async def test_sigterm_turns_readiness_off_first_and_loses_nothing_in_flight(stack: Stack, tmp_path: Path) -> None:
    # A long linger: the requests are still waiting for their batch when the signal comes.
    with endpoint(tmp_path, stack.settings.kafka, linger_ms=900, drain_s=10) as child:
        port = port_of(child)
        await eventually(lambda: ready("127.0.0.1", port), 30)
        users = [f"drain-{time.time_ns()}-{i}" for i in range(10)]

        def send(user: str) -> int:
            with Http(port) as client:
                return client.post("/v1/track", {"userId": user, "event": "A"}, X_Write_Key=SHOP.write_key)[0]

        sending = [asyncio.create_task(asyncio.to_thread(send, user)) for user in users]
        await asyncio.sleep(0.3)
        child.terminate()
        await eventually(lambda: not ready("127.0.0.1", port), 2, 0.05)
        assert alive(port)  # connections are still taken: the load balancer is told, not hit
        assert await asyncio.gather(*sending) == [200] * 10
        assert await asyncio.to_thread(child.stop) == 0
    events = await stack.consume(EVENTS, 10, site="shop", match=lambda value: value.get("userId") in users)
    assert sorted(event["userId"] for event in events) == sorted(users)


def test_a_hung_body_does_not_hold_the_exit(stack: Stack, tmp_path: Path) -> None:
    with (
        endpoint(tmp_path, stack.settings.kafka, drain_s=2) as child,
        socket.create_connection(("127.0.0.1", port_of(child))) as sock,
    ):
        sock.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        started_s = time.monotonic()
        child.terminate()
        assert child.stop() == 0
        assert time.monotonic() - started_s < 5


def test_a_taken_port_is_one_line_and_code_1(shop: int, stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka, http_port=shop) as child:  # what lives there is the other one
        assert child.process is not None
        assert child.process.wait(15) == 1
    log = (tmp_path / "endpoint.log").read_text("utf-8")
    assert "address already in use" in log
    assert "Traceback" not in log
