"""uvicorn's HTTP protocol with what it lacks: a front door for events, a deadline for requests, one system call for an
answer.

The front door takes the usual POST of an event or a batch from the parser to tracker/http_in.py and writes the answer
itself, without a scope, a task, receive and send: half of what a request costs. Whatever is unusual about a request's
head (see `_direct`) leaves it to uvicorn's ordinary path. A request that is answered here stands in `self.cycle`
as uvicorn's own do, so that shutdown, disconnects, deadlines and requests pipelined behind it are handled by the same
code: what it looks at in a cycle are the fields of `Direct`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tracker import metrics
from tracker.http_in import HttpIn
from tracker.post import OK, OK_ANY_ORIGIN, Answer, Body, Post, error_body
from tracker.rejections import BODY_TIMEOUT, refuse
from tracker.routes import ROUTES, Route

REQUEST_TIMEOUT_S: Final = 30.0
"""From the opening of a connection, or a request's first byte, to the request's last byte. uvicorn has a limit for idle
connections only after the first answer, and none for slow heads and bodies."""

_TARGETS: Final = {path.encode(): route for path, route in ROUTES.items()}


class Protocol(HttpToolsProtocol):
    _late: asyncio.TimerHandle | None = None
    _arriving = True
    """A request is expected or has begun, and is not complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http_in: HttpIn | None = getattr(self.app, "http_in", None)
        self._direct_cycle: Direct | None = None
        """The request whose body is arriving, if it is answered here; also in `cycle`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        collected = _Collected(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", collected))
        self._late = self.loop.call_later(REQUEST_TIMEOUT_S, self._too_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._arriving:
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(REQUEST_TIMEOUT_S, self._too_late)

    # -- from the parser

    def on_message_begin(self) -> None:
        self._arriving = True
        self.url = b""
        self.headers = []
        self._direct_cycle = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._direct():
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _direct(self) -> bool:
        """Take the request, unless something about it is unusual."""
        if self._http_in is None or self.parser.get_method() != b"POST":
            return False
        path, _, query = self.url.partition(b"?")
        target = _TARGETS.get(path)
        if target is None or b"#" in query:
            return False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False  # pipelined: uvicorn queues it
        if self.flow.write_paused:
            return False  # uvicorn waits until the client reads its answers
        headers = dict(self.headers)
        if b"expect" in headers or self.parser.should_upgrade() or self.parser.get_http_version() != "1.1":
            return False
        direct = Direct(target, headers, query, self, self._http_in.new_body())
        direct.keep_alive = self.parser.should_keep_alive()
        if self.transport.is_closing():
            direct.response_complete = True  # nothing counts that stands behind the request that closed it
        self._direct_cycle = direct
        self.cycle = direct  # type: ignore[assignment]
        return True

    def on_body(self, body: bytes) -> None:
        direct = self._direct_cycle
        if direct is None:
            super().on_body(body)
        elif not direct.response_complete and not direct.body.add(body):
            self._take(direct)

    def on_message_complete(self) -> None:
        self._arriving = False
        direct = self._direct_cycle
        if direct is None:
            super().on_message_complete()
        elif not direct.response_complete:
            self._take(direct)

    # -- to the client

    def _take(self, direct: Direct) -> None:
        body, direct.body = direct.body.whole(), NO_BODY
        assert self._http_in is not None
        self._http_in.take(direct, body)

    def answer(self, direct: Direct, answer: Answer) -> None:
        direct.response_complete = True
        if self.transport.is_closing():
            return
        default = self.server_state.default_headers
        if direct.keep_alive and (answer is OK or answer is OK_ANY_ORIGIN):
            if _prebuilt.default is not default:
                _prebuilt.build(default)
            data = _prebuilt.ok if answer is OK else _prebuilt.ok_any_origin
        else:
            closing = (b"connection", b"close") in answer.headers
            data = _write(answer, default, close=not direct.keep_alive and not closing)
            direct.keep_alive = direct.keep_alive and not closing
        cast("_Collected", self.transport).write_now(data)
        if not direct.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().connection_lost(exc)

    def _too_late(self) -> None:
        """408 if an answer is still owed to a request that has begun; the app then hears that the client is gone."""
        self._late = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_started:
            refusal = refuse(BODY_TIMEOUT)
            metrics.REJECTED[refusal.rejection.name].inc()
            body = error_body(refusal)
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )
        self.transport.close()


NO_BODY: Final = Body(0, 0)


class _Event:
    """uvicorn wakes a cycle's task by its event; there is no task here."""

    def set(self) -> None:
        pass


class Direct(Post):
    """A request that is answered here; to uvicorn it is a cycle."""

    __slots__ = ("_protocol", "body", "disconnected", "keep_alive", "response_complete")
    message_event = _Event()

    def __init__(
        self,
        route: Route,
        headers: dict[bytes, bytes],
        query: bytes,
        protocol: Protocol,
        body: Body,
    ) -> None:
        super().__init__(route, headers, query, protocol.client[0] if protocol.client else "")
        self._protocol = protocol
        self.body = body
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    @property
    def response_started(self) -> bool:
        return self.response_complete

    def answer(self, answer: Answer) -> None:
        self._protocol.answer(self, answer)


def _write(answer: Answer, default: list[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """An answer's bytes, as uvicorn would write them."""
    lines = [*default, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
    lines += answer.headers
    if close:
        lines.append((b"connection", b"close"))
    head = b"".join([b"%s: %s\r\n" % line for line in lines])
    return STATUS_LINE[answer.status] + head + b"\r\n" + answer.body


class _Prebuilt:
    """The bytes of the usual answers. uvicorn makes a new list of default headers when the Date moves on."""

    default: list[tuple[bytes, bytes]] | None = None
    ok = ok_any_origin = b""

    def build(self, default: list[tuple[bytes, bytes]]) -> None:
        self.default = default
        self.ok = _write(OK, default, close=False)
        self.ok_any_origin = _write(OK_ANY_ORIGIN, default, close=False)


_prebuilt: Final = _Prebuilt()


class _Collected:
    """A transport that writes once a turn of the loop: uvicorn hands over head and body of an answer one by one, and a
    system call for each costs more than all of the intake."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing  # asked several times a request; the rest goes through __getattr__

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_now(self, data: bytes) -> None:
        """A whole answer: nothing comes that could go out with it."""
        if self._parts:  # of the answer before it
            self._parts.append(data)
            self._flush()
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
