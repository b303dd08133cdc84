"""Requests as they come over the socket: most are answered straight from the parser, the unusual ones by uvicorn."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from tests.endpoint import (
    SHOP,
    Http,
    exchange,
    raw,
    recv,
    values_of,
)
from tests.harness import Stack
from tracker.contract.topics import EVENTS

pytestmark = pytest.mark.integration


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
    values = await values_of(stack.settings.kafka)
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
        while part := recv(sock):
            received += part
    assert received == b"" or received.startswith(b"HTTP/1.1 413")
