"""uvicorn's HTTP protocol with what it lacks: a deadline for requests, and one system call for an answer."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tracker import metrics
from tracker.http_in import error_body
from tracker.rejections import BODY_TIMEOUT, refuse

REQUEST_TIMEOUT_S: Final = 30.0
"""From the opening of a connection, or a request's first byte, to the request's last byte. uvicorn has a limit for idle
connections only after the first answer, and none for slow heads and bodies."""


class Protocol(HttpToolsProtocol):
    _late: asyncio.TimerHandle | None = None
    _arriving = True
    """A request is expected or has begun, and is not complete."""

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

    def on_message_begin(self) -> None:
        self._arriving = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

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


class _Collected:
    """A transport that writes once a turn of the loop: uvicorn hands over head and body of an answer one by one, and a
    system call for each costs more than all of the intake."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
