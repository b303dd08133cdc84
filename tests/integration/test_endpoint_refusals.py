"""What the endpoint refuses, and in what words."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest

from tests.endpoint import (
    SHOP,
    Http,
    basic,
    metric,
    recv,
)
from tracker.contract.settings import DEMO_WRITE_KEY

pytestmark = pytest.mark.integration


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
        ("/v1/batch", gzip.compress(b" " * 70_000, mtime=0), 413, "request_too_large"),
        ("/v1/batch", gzip.compress(b" " * 1000, mtime=0)[:-9], 400, "bad_compression"),
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
        while part := recv(sock):
            received += part
    if received:
        assert received.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in received.lower()
