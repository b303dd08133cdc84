"""Deadlines and limits of connections and requests, over real connections to a small app behind the protocol."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tracker.contract.loading import load
from tracker.http_protocol import Protocol
from tracker.limits import Guard
from tracker.post import OK, Body
from tracker.rejections import Refusal
from tracker.routes import ROUTES

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
gone: list[str] = []


class App:
    """Answers with `answer`: by default with the body."""

    def __init__(self, **settings: Any) -> None:
        self.guard = Guard(load({}, **settings))
        self.state = ServerState()
        self.answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(scope, receive, send)


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
async def serve(app: App) -> AsyncIterator[int]:
    """Port of a server of `app`."""
    keep_alive_s = app.guard.settings.keep_alive_s
    config = Config(
        app, http=Protocol, ws="none", log_config=None, proxy_headers=False, timeout_keep_alive=keep_alive_s
    )
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Protocol(config=config, server_state=app.state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serve(App(head_timeout_s=0.15, request_timeout_s=0.3)) as port:
        yield port


class Listening(asyncio.Protocol):
    """A client that keeps what it hears, also when the connection is reset behind it."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def talk(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts with pauses; what comes back until the server closes the connection, within 5 s."""
    transport, client = await asyncio.get_running_loop().create_connection(Listening, "127.0.0.1", port)

    async def write() -> None:
        for part in parts:
            transport.write(part)
            await asyncio.sleep(pause_s)

    writing = asyncio.create_task(write())
    try:
        await asyncio.wait_for(client.ended.wait(), 5)
        return client.heard
    finally:
        writing.cancel()
        transport.close()


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


# -- limits


async def refused(app: App, *parts: bytes, pause_s: float = 0.0) -> tuple[int, str]:
    async with serve(app) as port:
        answer = await talk(port, *parts, pause_s=pause_s)
    return refusal(answer)


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        ([b"X: " + b"y" * 1100], (431, "headers_too_large")),
        ([b"X%d: y" % i for i in range(16)], (431, "headers_too_large")),
        ([b"X%d: y" % i for i in range(13)], None),
        ([b"X: " + b"y" * 800], None),
    ],
)
async def test_heads_have_a_limit(lines: list[bytes], answer: tuple[int, str] | None) -> None:
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", b"Content-Length: 1", *lines, b"\r\n"]) + b"a"
    app = App(max_head_bytes=1024, max_headers=16, max_url_bytes=512, head_timeout_s=1, request_timeout_s=1)
    if answer is not None:
        assert await refused(app, head) == answer
        middle = head.index(b"X") + 2
        assert await refused(app, head[:middle], head[middle:], pause_s=0.05) == answer
        # Behind a request that came with it.
        async with serve(app) as port:
            before = HEAD.replace(b"4", b"0")
            assert await talk(port, before + head) == b""  # that one is owed an answer
    else:
        async with serve(app) as port:
            assert (await talk(port, head.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("pieces", [1, 7])
async def test_an_endless_head_is_cut_off_at_its_limit(pieces: int) -> None:
    app = App(max_head_bytes=1024, head_timeout_s=5)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2000
    step = len(head) // pieces + 1
    parts = [head[i : i + step] for i in range(0, len(head), step)]
    assert await refused(app, *parts, pause_s=0.02) == (431, "headers_too_large")


async def test_addresses_have_a_limit() -> None:
    app = App(max_url_bytes=512)
    head = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert await refused(app, head % (b"a" * 512)) == (414, "url_too_long")
    async with serve(app) as port:
        assert (await talk(port, head % (b"a" * 511))).startswith(b"HTTP/1.1 200 ")


class FrontDoor:
    """Answers what is not left to uvicorn's path."""

    targets = {path.encode(): route for path, route in ROUTES.items()}  # noqa: RUF012

    def __init__(self) -> None:
        self.taken = 0

    def new_body(self) -> Body:
        return Body(1024, 1024)

    def take(self, post: Any, body: Any) -> None:
        self.taken += 1
        post.answer(OK)


@pytest.mark.parametrize("path", [b"/v1/track", b"/"])
async def test_a_closed_connection_is_freed_without_the_collector(path: bytes) -> None:
    """It looks at what has lived long once in millions of events."""
    app = App()
    app.http_in = door = FrontDoor()  # type: ignore[attr-defined]
    async with serve(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD.replace(b"/", path, 1) + b"abcd")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        (protocol,) = map(weakref.ref, app.state.connections)
        gc.collect()
        gc.disable()
        try:
            writer.close()
            await writer.wait_closed()
            async with asyncio.timeout(5):
                while protocol() is not None:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()
    assert door.taken == (2 if path == b"/v1/track" else 0)


async def test_connections_have_a_limit_and_make_room_when_they_end() -> None:
    app = App(max_connections=3, head_timeout_s=5)
    async with serve(app) as port:
        open_ = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert refusal(await talk(port)) == (503, "too_many_connections")
        assert app.guard.connections.open == 3
        open_.pop()[1].close()
        await asyncio.sleep(0.05)
        assert (await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 200 "
        )
        for _, writer in open_:
            writer.close()
        await asyncio.sleep(0.05)
        assert app.guard.connections.open == 0


async def test_an_address_has_a_limit_of_its_own_and_trusted_proxies_do_not() -> None:
    for trusted, answer in (("", b"HTTP/1.1 503 "), ("127.0.0.0/8", b"HTTP/1.1 200 ")):
        async with serve(App(max_ip_connections=1, trusted_proxies=trusted)) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
            assert (await talk(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(answer)
            writer.close()
            await asyncio.sleep(0.05)


async def test_bodies_that_are_arriving_have_one_limit_for_all() -> None:
    app = App(max_request_bytes=512 << 10, max_inflight_bytes=1 << 20, request_timeout_s=60)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
    async with serve(app) as port:
        writers = []
        for _ in range(2):
            writer = (await asyncio.open_connection("127.0.0.1", port))[1]
            writer.write(head + b"a" * 499_999)
            writers.append(writer)
        await until(lambda: app.guard.arriving_bytes > 999_000)
        answer = await talk(port, head + b"a" * 60_000)
        assert refusal(answer) == (503, "too_many_bodies")
        # A request that comes in one piece is not arriving: it is there.
        assert b"HTTP/1.1 200 " in await talk(port, HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"abcd")
        for writer in writers:
            writer.close()
        await until(lambda: app.guard.arriving_bytes == 0)


async def test_what_surrounds_a_body_is_limited_like_the_body() -> None:
    app = App(max_request_bytes=2048, max_head_bytes=1024)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for flood in (b"1;" + b"x" * 8000, b"1\r\na\r\n" * 2000, b"0\r\nX: " + b"y" * 8000, b"0\r\n" + b"X: y\r\n" * 2000):
        assert await refused(app, head, flood, pause_s=0.05) == (413, "request_too_large")


async def test_a_body_in_crumbs_takes_no_more_memory_than_in_one_piece() -> None:
    size = 1 << 16
    body = Body(size, 8)
    tracemalloc.start()
    try:
        for _ in range(size // 2):
            body.add(b"%x" % 0xAB)
        assert tracemalloc.get_traced_memory()[1] < 2 * size
    finally:
        tracemalloc.stop()
    assert body.whole() == b"ab" * (size // 2)
    assert not body.add(b"x" * 8 * size)
    assert isinstance(body.whole(), Refusal)


async def until(fn: Callable[[], bool]) -> None:
    for _ in range(200):
        if fn():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


# -- order: an answer belongs to the oldest request that has none


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.2)
    await answer(scope, receive, send)


@pytest.mark.parametrize("behind", [b"GET / HTTP/1.1\r\nX\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0"])
async def test_what_is_refused_behind_a_request_that_waits_gets_no_answer(behind: bytes) -> None:
    app = App()
    app.answer = slow
    async with serve(app) as port:
        assert await talk(port, HEAD + b"abcd" + behind) == b""


async def test_a_body_that_breaks_off_behind_an_early_answer_gets_no_second_one() -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    app = App()
    app.answer = early
    async with serve(app) as port:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        answers = await talk(port, head, b"zz\r\n", pause_s=0.1)
        assert answers.startswith(b"HTTP/1.1 404 ")
        assert answers.count(b"HTTP/1.1 ") == 1


async def test_requests_ahead_of_their_answers_have_a_limit() -> None:
    app = App(max_pipelined=4)
    app.answer = slow
    async with serve(app) as port:
        assert await talk(port, (HEAD + b"abcd") * 6) == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((HEAD + b"abcd") * 5)
        for _ in range(5):
            assert (await asyncio.wait_for(reader.readuntil(b"abcd"), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


# -- other deadlines


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            if cycle.transport.is_closing():
                ended.set()
                return

    app = App(write_timeout_s=0.2)
    app.answer = endless
    async with serve(app) as port:
        cycle: Any = None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: bool(app.guard.connections.open))
        cycle = next(iter(app.state.connections))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 5)
        await until(lambda: app.guard.connections.open == 0)
        writer.close()


async def test_a_closed_connection_does_not_wait_for_ever_until_its_last_answer_is_read() -> None:
    app = App(write_timeout_s=0.2)

    async def fill(scope: Any, receive: Any, send: Any) -> None:
        transport = next(iter(app.state.connections)).transport
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        while not transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    app.answer = fill
    async with serve(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(app.guard.connections.open))
        await until(lambda: app.guard.connections.open == 0)
        writer.close()


async def test_a_request_that_has_begun_is_not_idle() -> None:
    async with serve(App(keep_alive_s=1)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"abcd")
        await asyncio.wait_for(reader.readuntil(b"abcd"), 5)
        await asyncio.sleep(0.8)
        writer.write(HEAD)
        await asyncio.sleep(0.4)  # longer than it may idle
        writer.write(b"efgh")
        assert (await asyncio.wait_for(reader.readuntil(b"efgh"), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_a_connection_is_idle_from_its_last_answer_on() -> None:
    async with serve(App(keep_alive_s=1)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        clock = asyncio.get_running_loop().time
        for _ in range(4):  # together longer than it may idle
            await asyncio.sleep(0.6)
            writer.write(HEAD + b"abcd")
            await asyncio.wait_for(reader.readuntil(b"abcd"), 5)
        answered_s = clock()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert 0.9 < clock() - answered_s < 1.9
        writer.close()


async def test_empty_lines_keep_no_connection_alive() -> None:
    app = App(keep_alive_s=1)
    async with serve(app) as port:
        started_s = asyncio.get_running_loop().time()
        answers = await talk(port, HEAD + b"abcd", *[b"\r\n"] * 20, pause_s=0.2)
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert asyncio.get_running_loop().time() - started_s < 3


# -- other protocols


async def test_a_client_that_offers_http2_is_answered_here_with_its_body() -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nHost"
    request = HEAD.replace(b"Host", upgrade) + b"abcd"
    async with serve(App()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for cut in (len(request), 10, len(request) - 2):
                writer.write(request[:cut])
                await asyncio.sleep(0.02)
                writer.write(request[cut:] + HEAD + b"efgh")
                assert (await asyncio.wait_for(reader.readuntil(b"abcd"), 5)).startswith(b"HTTP/1.1 200 ")
                assert (await asyncio.wait_for(reader.readuntil(b"efgh"), 5)).startswith(b"HTTP/1.1 200 ")
        finally:
            writer.close()
            await writer.wait_closed()


async def test_no_tunnel_is_opened() -> None:
    assert await refused(App(), b"CONNECT evil:443 HTTP/1.1\r\nHost: x\r\n\r\n") == (400, "malformed_request")
