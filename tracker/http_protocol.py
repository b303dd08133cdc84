"""uvicorn's HTTP protocol with what it lacks: a front door for events, deadlines and limits, one system call for an
answer.

The front door takes the usual POST of an event or a batch from the parser to tracker/http_in.py and writes the answer
itself, without a scope, a task, receive and send: half of what a request costs. Whatever is unusual about a request's
head (see `_direct`) leaves it to uvicorn's ordinary path. A request that is answered here stands in `self.cycle`
as uvicorn's own do, so that shutdown, disconnects, deadlines and requests pipelined behind it are handled by the same
code: what it looks at in a cycle are the fields of `Direct`.

The limits (settings, `Guard`) hold for both ways: a request that comes whole with one read passes them without more
than a few comparisons; one that comes in parts is counted part by part, whatever the parts are (`_in_part`).
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tracker import metrics
from tracker.http_in import HttpIn
from tracker.limits import Guard
from tracker.post import CLOSING, OK, OK_ANY_ORIGIN, Answer, Body, Post, error_body
from tracker.rejections import (
    BODY_TIMEOUT,
    HEAD_TIMEOUT,
    HEADERS_TOO_LARGE,
    MALFORMED_REQUEST,
    REQUEST_TOO_LARGE,
    TOO_MANY_BODIES,
    TOO_MANY_CONNECTIONS,
    URL_TOO_LONG,
    Refusal,
    refuse,
)
from tracker.routes import Route

_ONCE: Final = (b"host", b"content-length", b"transfer-encoding")


class _Arriving(Enum):
    """How much of a request is there."""

    HEAD = 0
    """Nothing, or a part of its head."""
    BODY = 1
    WHOLE = 2


# As globals: a member of an Enum takes four times as long to look up.
HEAD, BODY, WHOLE = _Arriving


class _Refused(Exception):
    """Ends the parsing of a request that is refused by its head."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class _Trailers(list[tuple[bytes, bytes]]):
    """Stands for a request's headers once they are complete: what comes behind the body is nobody's header."""

    def append(self, line: tuple[bytes, bytes]) -> None:
        pass


_TRAILERS: Final = _Trailers()


class Protocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http_in: HttpIn | None = getattr(self.app, "http_in", None)
        self._guard: Guard = self.app.guard
        settings = self._guard.settings
        self._max_headers = settings.max_headers
        self._small_bytes = min(settings.max_head_bytes, settings.max_url_bytes)
        self._arriving = HEAD
        self._direct_cycle: Direct | None = None
        """The request whose body is arriving, if it is answered here; also in `cycle`."""
        self._peer: str | None = None
        """Under which name this connection is counted; None: it is not."""
        self._ip = ""
        """The other end's."""
        self._proxied = False
        """It is a trusted proxy."""
        self._read_bytes = 0
        """Of the request that is arriving, with what was read together with its end and its beginning."""
        self._body_bytes = 0
        """Of a body that goes to uvicorn."""
        self._held_bytes = 0
        """What of the request that is arriving counts in `Guard.arriving_bytes`."""
        self._late: asyncio.TimerHandle | None = None
        self._late_is_last = False
        """The deadline that runs is the whole request's; otherwise it is the head's."""
        self._stuck: asyncio.TimerHandle | None = None
        """Runs while the client does not read its answers."""
        self._idle_since_s: float | None = None
        """When the last answer was complete; None while a request is on its way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        guard = self._guard
        settings = guard.settings
        collected = _Collected(cast("asyncio.Transport", transport), self.loop, settings.write_timeout_s)
        super().connection_made(cast("asyncio.Transport", collected))
        self._ip = self.client[0] if self.client else ""
        self._proxied = self._ip in guard.proxies
        peer = "" if self._proxied else self._ip
        if guard.connections.admit(peer):
            self._peer = peer
            metrics.CONNECTIONS.set(guard.connections.open)
            self._late = self.loop.call_later(settings.head_timeout_s, self._too_late)
        else:
            self._refuse(refuse(TOO_MANY_CONNECTIONS))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer is not None:
            self._guard.connections.leave(self._peer)
            metrics.CONNECTIONS.set(self._guard.connections.open)
        self._release()
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        # A request and its connection hold each other, and the collector seldom looks at what has lived long.
        self.cycle = self._direct_cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._read_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            self._decline_upgrade(data[e.args[0] :])
            return
        except httptools.HttpParserError as e:
            cause = e.__context__
            self._refuse(cause.refusal if isinstance(cause, _Refused) else refuse(MALFORMED_REQUEST))
            return
        if self._arriving is WHOLE:
            self._read_bytes = 0
            if self._late is not None:
                self._release()
        elif not self.transport.is_closing():
            self._in_part()

    # -- requests that come in parts

    def _in_part(self) -> None:
        """Count what has come of a request that is not complete, and see that it will be."""
        guard, settings = self._guard, self._guard.settings
        direct = self._direct_cycle
        if self._late is None:
            self._late_is_last = self._arriving is BODY
            wait_s = settings.request_timeout_s if self._late_is_last else settings.head_timeout_s
            self._late = self.loop.call_later(wait_s, self._too_late)
        if self._arriving is HEAD:
            if self._read_bytes > settings.max_head_bytes:
                self._refuse(refuse(HEADERS_TOO_LARGE))
                return
            held_bytes = self._read_bytes
        else:
            body_bytes = self._body_bytes if direct is None else direct.body.size
            around_bytes = max(0, self._read_bytes - body_bytes)  # head, sizes of chunks, trailers
            if around_bytes > settings.max_head_bytes + settings.max_request_bytes:
                self._refuse(refuse(REQUEST_TOO_LARGE, CLOSING))
                return
            # A body over the limit is not kept.
            held_bytes = around_bytes + (body_bytes if body_bytes <= settings.max_request_bytes else 0)
        more_bytes = held_bytes - self._held_bytes
        guard.arriving_bytes += more_bytes
        self._held_bytes = held_bytes
        metrics.ARRIVING_BYTES.set(guard.arriving_bytes)
        if more_bytes > 0 and guard.arriving_bytes > settings.max_inflight_bytes:
            self._refuse(refuse(TOO_MANY_BODIES, CLOSING))

    def _release(self) -> None:
        """Nothing is arriving any more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._held_bytes:
            self._guard.arriving_bytes -= self._held_bytes
            self._held_bytes = 0
            metrics.ARRIVING_BYTES.set(self._guard.arriving_bytes)

    def _too_late(self) -> None:
        settings = self._guard.settings
        if self._arriving is BODY and not self._late_is_last:
            self._late_is_last = True
            self._late = self.loop.call_later(settings.request_timeout_s - settings.head_timeout_s, self._too_late)
            return
        self._late = None
        if self.transport.is_closing():
            return
        if self._arriving is BODY:
            self._refuse(refuse(BODY_TIMEOUT, CLOSING))
        elif self._read_bytes:
            self._refuse(refuse(HEAD_TIMEOUT, CLOSING))
        else:  # browsers open connections in advance: nothing was asked
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection with an answer to the request that is arriving, if no other is owed before it: answers
        have no names, and this one would be taken for that one."""
        cycle, direct = self.cycle, self._direct_cycle
        if self._arriving is BODY:  # `cycle` is the request's own
            owed = bool(self.pipeline) or cycle.response_started
        else:
            owed = cycle is not None and not cycle.response_complete
        if owed:
            metrics.REJECTED[refusal.rejection.name].inc()
        elif self._arriving is BODY and direct is not None:
            direct.keep_alive = False
            direct.body = NO_BODY
            cast("HttpIn", self._http_in).take(direct, refusal)
        else:
            row = refusal.rejection
            metrics.REJECTED[row.name].inc()
            metrics.answered(metrics.OTHER, metrics.OTHER, row.status, None)
            retry: tuple[tuple[bytes, bytes], ...] = ()
            if row.asks_again:
                retry = ((b"retry-after", b"%d" % (refusal.retry_after_s or self._guard.retry_after_s())),)
            answer = Answer(row.status, error_body(refusal), retry)
            self.transport.write(_write(answer, self.server_state.default_headers, close=True))
        self.transport.close()

    def _decline_upgrade(self, rest: bytes) -> None:
        """A client that offers to go on with another protocol (HTTP/2 without TLS, by habit of some) is answered in
        this one. The parser would take all that follows for the other protocol, so it reads the head again, without
        the offer."""
        head = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s\r\n" % line for line in self.headers if line[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._arriving = HEAD
        self._read_bytes = 0
        self.data_received(b"".join([*head, b"\r\n", rest]))

    # -- from the parser

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()  # not before: empty lines between requests keep no connection alive
        self._arriving = HEAD
        self.url = b""
        self.headers = []
        self._direct_cycle = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        lines, parser = self.headers, self.parser
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise _Refused(refuse(MALFORMED_REQUEST))
            return  # see _decline_upgrade
        headers, ip = dict(lines), self._ip
        if self._proxied:
            headers, ip = self._guard.sender_of(ip, lines)
        version = parser.get_http_version()
        usual = (
            0 < self._read_bytes <= self._small_bytes  # with nothing before it: the head is no larger
            and len(lines) <= self._max_headers
            and len(headers) == len(lines)
            and version == "1.1"
            and b"host" in headers
            and b"transfer-encoding" not in headers
        )
        if not usual and (refusal := self._check_head(headers, version)) is not None:
            raise _Refused(refusal)
        if not self._direct(headers, ip, version):
            if len(self.pipeline) >= self._guard.settings.max_pipelined:
                raise _Refused(refuse(MALFORMED_REQUEST, "too many requests ahead of their answers"))
            url, self._body_bytes = self.url, 0
            super().on_message_begin()
            self.url = url
            for name, value in lines:
                super().on_header(name, value)
            super().on_headers_complete()
        self.headers = _TRAILERS
        self._arriving = BODY

    def _check_head(self, headers: dict[bytes, bytes], version: str) -> Refusal | None:
        """What the parser lets through, and we do not: too much of it, and what can be read in two ways."""
        lines, settings = self.headers, self._guard.settings
        if len(self.url) > settings.max_url_bytes:
            return refuse(URL_TOO_LONG, f"{len(self.url)} bytes; the limit is {settings.max_url_bytes}")
        if len(lines) > settings.max_headers:
            return refuse(HEADERS_TOO_LARGE, f"{len(lines)} headers; the limit is {settings.max_headers}")
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in lines)
        if size > settings.max_head_bytes:
            return refuse(HEADERS_TOO_LARGE, f"{size} bytes; the limit is {settings.max_head_bytes}")
        names = [name for name, _ in lines]
        for name in _ONCE:
            if names.count(name) > 1:
                return refuse(MALFORMED_REQUEST, f"more than one {name.decode()}")
        coding = headers.get(b"transfer-encoding")
        if version == "1.1":
            if b"host" not in headers:
                return refuse(MALFORMED_REQUEST, "no Host")
            if coding is not None and coding.strip().lower() != b"chunked":
                return refuse(MALFORMED_REQUEST, "a Transfer-Encoding other than chunked")
        elif version != "1.0":
            return refuse(MALFORMED_REQUEST, f"HTTP/{version}")
        elif coding is not None:
            return refuse(MALFORMED_REQUEST, "Transfer-Encoding in HTTP/1.0")
        return None

    def _direct(self, headers: dict[bytes, bytes], ip: str, version: str) -> bool:
        """Take the request, unless something about it is unusual."""
        if self._http_in is None or self.parser.get_method() != b"POST":
            return False
        path, _, query = self.url.partition(b"?")
        target = self._http_in.targets.get(path)
        if target is None or b"#" in query:
            return False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False  # pipelined: uvicorn queues it
        if self.flow.write_paused:
            return False  # uvicorn waits until the client reads its answers
        if b"expect" in headers or version != "1.1":
            return False
        direct = Direct(target, headers, ip, query, self, self._http_in.new_body())
        direct.keep_alive = self.parser.should_keep_alive()
        if self.transport.is_closing():
            direct.response_complete = True  # nothing counts that stands behind the request that closed it
        self._direct_cycle = direct
        self.cycle = direct  # type: ignore[assignment]
        return True

    def on_body(self, body: bytes) -> None:
        direct = self._direct_cycle
        if direct is None:
            self._body_bytes += len(body)
            super().on_body(body)
        elif not direct.response_complete and not direct.body.add(body):
            self._take(direct)

    def on_message_complete(self) -> None:
        if self._arriving is HEAD:
            return  # see _decline_upgrade
        self._arriving = WHOLE
        self._read_bytes = 0
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

    # -- between requests: uvicorn sets a timer with every answer and cancels it with every request, for 4 us; here one
    # goes on over requests, and finds out when it is over whether the connection has been idle since

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return  # the answer to what is on its way begins anew
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self._guard.settings.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


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
        ip: str,
        query: bytes,
        protocol: Protocol,
        body: Body,
    ) -> None:
        super().__init__(route, headers, ip, query)
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

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_timeout_s: float) -> None:
        self._transport, self._loop, self._write_timeout_s = transport, loop, write_timeout_s
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing  # asked several times a request; the rest goes through __getattr__

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        if len(self._parts) > 2:  # of a stream, which may not let the loop turn before it hears that it should pause
            self._flush()

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
        if self._transport.get_write_buffer_size():  # the client has to read it first, and may not
            self._loop.call_later(self._write_timeout_s, self._transport.abort)

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
