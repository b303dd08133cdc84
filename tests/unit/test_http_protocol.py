"""Deadlines of requests, over real connections to an app that waits for bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tracker.contract.settings import load
from tracker.http_protocol import Protocol
from tracker.limits import Guard

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
gone: list[str] = []


class App:
    """Answers with the length of the body as its body's length, and notes whose client went."""

    def __init__(self, **settings: Any) -> None:
        self.guard = Guard(load({}, **settings))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await answer(scope, receive, send)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.append(scope["path"])
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[int]:
    """Port of a server of `app`."""
    config = Config(app, http=Protocol, ws="none", log_config=None, proxy_headers=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serve(App(head_timeout_s=0.15, request_timeout_s=0.3)) as port:
        yield port


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


def refusal(answers: bytes) -> tuple[int, str]:
    """(status, code) of one answer that ends the connection."""
    head, _, body = answers.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    found = json.loads(body)
    assert found["success"] is False
    assert found["hint"]
    return int(head[9:12]), found["code"]


async def test_a_body_that_does_not_end_is_answered_in_time_and_the_app_hears_of_it(port: int) -> None:
    gone.clear()
    head, _, body = (await talk(port, HEAD + b"ab")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert 5 <= int(head.partition(b"retry-after: ")[2].split()[0]) <= 10
    assert b"connection: close" in head
    answer = json.loads(body)
    assert (answer["success"], answer["code"]) == (False, "body_timeout")
    assert gone == ["/"]


async def test_drips_do_not_move_the_deadline(port: int) -> None:
    started_s = asyncio.get_running_loop().time()
    long = HEAD.replace(b"4", b"400")
    assert (await talk(port, long, *[b"a"] * 30, pause_s=0.1)).startswith(b"HTTP/1.1 408 ")
    assert asyncio.get_running_loop().time() - started_s < 2


@pytest.mark.parametrize("head", [b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
async def test_a_head_that_does_not_end_is_answered_in_time(port: int, head: bytes) -> None:
    started_s = asyncio.get_running_loop().time()
    assert refusal(await talk(port, head)) == (408, "head_timeout")
    assert asyncio.get_running_loop().time() - started_s < 0.3


async def test_a_connection_on_which_nothing_is_asked_is_closed_without_an_answer(port: int) -> None:
    assert await talk(port) == b""


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
