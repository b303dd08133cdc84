"""Requests that two readers could read in two ways, over the socket, at both front doors.

They get one answer, 400, and the connection ends. What stands behind them is never taken for a request of its own, and
no event of it is ever in Kafka.
"""

from __future__ import annotations

import json
import time

import pytest

from tests.endpoint import SHOP, exchange, values_of
from tests.harness import Stack

pytestmark = pytest.mark.integration

RUN = f"{time.time_ns()}"
DOORS = {"direct": "/v1/track", "asgi": "/v1/%74rack"}
"""Paths of the same route: the second one is for uvicorn to decode."""


def event(user: str) -> bytes:
    return json.dumps({"userId": f"{user}-{RUN}", "event": "A", "writeKey": SHOP.write_key}).encode()


def whole(user: str, path: str, *lines: str) -> bytes:
    body = event(user)
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


BODY = event("outer")
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"

HEADS: dict[str, tuple[list[bytes], bytes]] = {
    "length and chunked": ([LENGTH, CHUNKED], CHUNKS),
    "chunked and length": ([CHUNKED, LENGTH], CHUNKS),
    "length 0 and chunked": ([b"Content-Length: 0", CHUNKED], CHUNKS),
    "two lengths that differ": ([LENGTH, b"Content-Length: 0"], BODY),
    "two lengths that agree": ([LENGTH, LENGTH], BODY),
    "a list of lengths": ([LENGTH + b", %d" % len(BODY)], BODY),
    "length with plus": ([b"Content-Length: +%d" % len(BODY)], BODY),
    "length with minus": ([b"Content-Length: -%d" % len(BODY)], BODY),
    "length in hex": ([b"Content-Length: 0x%x" % len(BODY)], BODY),
    "length with underscore": ([b"Content-Length: 1_0"], BODY),
    "length with space": ([b"Content-Length: 1 0"], BODY),
    "length that is empty": ([b"Content-Length:"], BODY),
    "length that is huge": ([b"Content-Length: 99999999999999999999999"], BODY),
    "length with space before the colon": ([LENGTH.replace(b":", b" :")], BODY),
    "chunked with space before the colon": ([LENGTH, CHUNKED.replace(b":", b" :")], CHUNKS),
    "chunked behind a vertical tab": ([CHUNKED.replace(b" c", b"\x0bc")], CHUNKS),
    "chunked in a folded line": ([b"Transfer-Encoding:\r\n chunked"], CHUNKS),
    "chunked in quotes": ([b'Transfer-Encoding: "chunked"'], CHUNKS),
    "xchunked": ([LENGTH, b"Transfer-Encoding: xchunked"], BODY),
    "identity": ([b"Transfer-Encoding: identity"], CHUNKS),
    "identity, then chunked": ([b"Transfer-Encoding: identity", CHUNKED], CHUNKS),
    "chunked twice": ([CHUNKED, CHUNKED], CHUNKS),
    "chunked, identity": ([CHUNKED + b", identity"], CHUNKS),
    "gzip, chunked": ([b"Transfer-Encoding: gzip, chunked"], CHUNKS),
    "chunked with a parameter": ([CHUNKED + b";q=1"], CHUNKS),
    "an empty coding": ([b"Transfer-Encoding:"], CHUNKS),
    "a folded line": ([LENGTH, b"X: a\r\n b"], BODY),
    "a bare LF": ([LENGTH + b"\nX: y"], BODY),
    "a bare CR": ([LENGTH + b"\rX: y"], BODY),
    "a head that ends with bare LF": ([LENGTH + b"\n\nX: y"], BODY),
    "NUL in a value": ([LENGTH, b"X: a\0b"], BODY),
    "NUL in a name": ([LENGTH, b"X\0: a"], BODY),
    "a line without a colon": ([LENGTH, b"X"], BODY),
    "a line without a name": ([LENGTH, b": y"], BODY),
    "a second Host": ([LENGTH, b"Host: y"], BODY),
    "a chunk without its CR LF": ([CHUNKED], CHUNKS.replace(b"}\r\n", b"}")),
    "chunks with bare LF": ([CHUNKED], CHUNKS.replace(b"\r\n", b"\n")),
    "an extension with bare LF": ([CHUNKED], CHUNKS.replace(b"\r\n", b";x\n", 1)),
    "a chunk of size 0x": ([CHUNKED], b"0x" + CHUNKS),
    "a chunk of negative size": ([CHUNKED], b"-" + CHUNKS),
    "a chunk of huge size": ([CHUNKED], b"f" * 17 + CHUNKS),
    "a chunk with space": ([CHUNKED], b" " + CHUNKS),
    "a chunk without size": ([CHUNKED], b"\r\n" + CHUNKS),
    "a length as trailer": ([CHUNKED], CHUNKS[:-2] + b"Content-Length: 3\r\n\r\n"),
}
LINES: dict[str, bytes] = {
    "no Host": b"POST %s HTTP/1.1\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "chunked in HTTP/1.0": b"POST %s HTTP/1.0\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", CHUNKED, CHUNKS),
    "HTTP/2.0": b"POST %s HTTP/2.0\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "HTTP/0.9": b"POST %s\r\n\r\n",
    "HTTP/1.2": b"POST %s HTTP/1.2\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "http/1.1": b"POST %s http/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "tabs": b"POST\t%s\tHTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "a space in the address": b"POST %s x HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "NUL in the address": b"POST %s\0 HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "a space behind the version": b"POST %s HTTP/1.1 \r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "a space before the first header": b"POST %s HTTP/1.1\r\n Host: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "a bare LF behind the line": b"POST %s HTTP/1.1\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "another method": b"post %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (b"%s", LENGTH, BODY),
}  # fmt: skip


def refused(name: str, answers: bytes) -> None:
    assert answers.count(b"HTTP/1.1 ") == 1, (name, answers)
    assert answers.startswith(b"HTTP/1.1 400 "), (name, answers)
    assert b"connection: close" in answers, (name, answers)
    assert json.loads(answers.partition(b"\r\n\r\n")[2])["code"] == "malformed_request", name


@pytest.mark.parametrize("path", DOORS.values(), ids=DOORS)
async def test_what_can_be_read_in_two_ways_is_refused_with_all_that_follows(
    stack: Stack, shop: int, path: str
) -> None:
    behind = whole("smuggled", path, "Connection: close")
    for name, (lines, body) in HEADS.items():
        request = b"\r\n".join([b"POST %s HTTP/1.1" % path.encode(), b"Host: x", *lines]) + b"\r\n\r\n" + body
        refused(name, exchange(shop, request + behind))
    for name, line in LINES.items():
        refused(name, exchange(shop, (line % path.encode() if b"%s" in line else line) + behind))
    # None of it has got through, while what is asked properly has.
    assert exchange(shop, whole("asked", path, "Connection: close")).startswith(b"HTTP/1.1 200 ")
    values = await values_of(stack.settings.kafka)
    assert any(f"asked-{RUN}".encode() in value for value in values)
    assert not any(f"smuggled-{RUN}".encode() in value for value in values)


START = b"POST %s HTTP/1.1\r\nHost: x\r\n"
INSIDE = whole("smuggled", "/v1/track")
FINE: dict[str, bytes] = {
    "chunked": START + CHUNKED + b"\r\n\r\n" + CHUNKS,
    "CHUNKED": START + b"Transfer-Encoding:\tCHUNKED \r\n\r\n" + CHUNKS,
    "an extension of a chunk": START + CHUNKED + b"\r\n\r\n" + CHUNKS.replace(b"\r\n", b";a=b\r\n", 1),
    "a trailer": START + CHUNKED + b"\r\n\r\n" + CHUNKS[:-2] + b"X-Write-Key: other\r\n\r\n",
    "leading empty lines": b"\r\n\r\n" + START + LENGTH + b"\r\n\r\n" + BODY,
    "an absolute address": START.replace(b"%s", b"http://other.example%s") + LENGTH + b"\r\n\r\n" + BODY,
    "a body that looks like a request": b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
    % (len(INSIDE), INSIDE),
}


@pytest.mark.parametrize("path", DOORS.values(), ids=DOORS)
async def test_what_is_unusual_but_clear_is_answered_and_so_is_what_follows(stack: Stack, shop: int, path: str) -> None:
    for name, request in FINE.items():
        request = request.replace(b"%s", path.encode())
        answers = exchange(shop, request, whole("behind", path, "Connection: close"), pause_s=0.05)
        assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"], (name, answers)
    assert not any(f"smuggled-{RUN}".encode() in value for value in await values_of(stack.settings.kafka))
