"""Deadlines of requests, over real connections to an app that waits for bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tracker import http_protocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
gone: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.append(scope["path"])
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_protocol, "REQUEST_TIMEOUT_S", 0.3)
    config = Config(app, http=http_protocol.Protocol, ws="none", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: http_protocol.Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def talk(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts with pauses; what comes back until the server closes the connection, within 5 s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def write() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)

    writing = asyncio.create_task(write())
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writing.cancel()
        writer.close()
        with contextlib.suppress(ConnectionError):  # closed by the server first
            await writer.wait_closed()


async def test_a_body_that_does_not_end_is_answered_in_time_and_the_app_hears_of_it(port: int) -> None:
    gone.clear()
    head, _, body = (await talk(port, HEAD + b"ab")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"retry-after: 5" in head
    assert b"connection: close" in head
    answer = json.loads(body)
    assert (answer["success"], answer["code"]) == (False, "body_timeout")
    assert gone == ["/"]


async def test_drips_do_not_move_the_deadline(port: int) -> None:
    started_s = asyncio.get_running_loop().time()
    long = HEAD.replace(b"4", b"400")
    assert (await talk(port, long, *[b"a"] * 30, pause_s=0.1)).startswith(b"HTTP/1.1 408 ")
    assert asyncio.get_running_loop().time() - started_s < 2


@pytest.mark.parametrize("head", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_cut_off(port: int, head: bytes) -> None:
    assert await talk(port, head) == b""


async def test_a_connection_in_use_outlives_the_deadline(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(5):
            writer.write(HEAD)
            await asyncio.sleep(0.15)  # five requests take longer than one may
            writer.write(b"abcd")
            answer = await asyncio.wait_for(reader.readuntil(b"abcd"), 5)
            assert answer.startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(HEAD + b"%04d" % i for i in range(10)))
        for i in range(10):
            assert (await asyncio.wait_for(reader.readuntil(b"%04d" % i), 5)).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()
        await writer.wait_closed()
