"""A request with events from its head to its answer, as the parts of the hot path hand it around."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tracker.cors import ANY_ORIGIN, Header
from tracker.limits import Guard
from tracker.rejections import REQUEST_TOO_LARGE, Refusal, refuse
from tracker.routes import OK_BODY, Route

MAX_DETAIL_CHARS: Final = 300
CLOSING: Final = "the connection is closed"
"""Detail of a refusal that came before the body's end: what follows on the connection can't be told apart from it."""

_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    """All but content-type and content-length."""


OK: Final = Answer(200, OK_BODY)
OK_ANY_ORIGIN: Final = Answer(200, OK_BODY, ANY_ORIGIN)
"""The two usual answers, as values that a door may compare by identity."""


class Tally(msgspec.Struct, frozen=True):
    """What of a request is counted when Kafka has acked it."""

    source: str
    site: str
    types: dict[str, int]
    clamped: int = 0
    anonymous: int = 0
    """Events whose person has not consented, and was taken off."""
    skew_ms: int | None = None
    dead: Sequence[str] = ()
    """Why events went to the dead letters."""
    dropped: Sequence[str] = ()
    """Why events were dropped, as the site wants it: nothing is kept of them."""


NO_TALLY: Final = Tally("", "", {})


class Post:
    """A POST to one of ROUTES. A front door is a subclass: it says where answers go."""

    __slots__ = ("acks", "cors", "headers", "ip", "known", "ok", "query", "route", "started_s", "tally")

    method = "POST"
    """Its name in metrics."""

    def __init__(self, route: Route, headers: dict[bytes, bytes], ip: str, query: bytes) -> None:
        self.route = route
        self.headers = headers
        self.query = query
        self.ip = ip
        """The client's address; '' on a Unix socket."""
        self.started_s = time.perf_counter()
        self.cors: tuple[Header, ...] = ANY_ORIGIN
        self.acks = 0
        """Batches of Kafka that it still waits for."""
        self.ok = OK
        self.tally = NO_TALLY
        self.known: list[int] | None = None
        """Of ?verbose=1: hashes of its events, known from the ack on."""

    def answer(self, answer: Answer) -> None:
        raise NotImplementedError


class Body:
    """A body as it comes in, at most `cap` bytes of it in memory.

    What is over the cap is read on and thrown away, up to `skipped` caps, so that the connection stays usable.
    """

    __slots__ = ("_cap", "_data", "_skipped", "size")

    def __init__(self, cap: int, skipped: int) -> None:
        self._cap, self._skipped = cap, skipped
        self._data: bytes | bytearray = b""
        self.size = 0
        """Bytes that have come."""

    def add(self, part: bytes) -> bool:
        """False: it is so far over the cap that nothing more is read."""
        self.size += len(part)
        if self.size > self._cap:
            self._data = b""
        elif not self._data:
            self._data = part
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += part  # a list of parts of a byte or two would take twenty times their size
        return self.size <= self._cap * self._skipped

    def whole(self) -> bytes | Refusal:
        if self.size <= self._cap:
            return bytes(self._data)
        if self.size > self._cap * self._skipped:
            return refuse(REQUEST_TOO_LARGE, CLOSING)
        return refuse(REQUEST_TOO_LARGE, f"{self.size} bytes; the limit is {self._cap}")


class Result(msgspec.Struct, rename="camel", omit_defaults=True):
    """What became of one event, for ?verbose=1."""

    message_id: str | None
    status: str
    """'ok', 'duplicate' (acked before) or 'rejected' (in the dead letters, or dropped)."""
    reason: str | None = None
    detail: str | None = None


def accepted(post: Post, results: list[Result] | None) -> Answer:
    """The answer for when every event is safe."""
    cors = post.cors if b"origin" in post.headers else ()
    body = post.route.ok
    if results is not None:
        return Answer(200, b'%s,"results":%s}' % (body[:-1], _encode(results)), cors)
    if body is not OK_BODY or (cors and cors is not ANY_ORIGIN):
        return Answer(200, body, cors)
    return OK_ANY_ORIGIN if cors else OK


def refused(refusal: Refusal, post: Post, guard: Guard) -> Answer:
    """The answer to a request that is refused as a whole."""
    status = refusal.rejection.status
    more = post.cors if b"origin" in post.headers else ()
    if refusal.rejection.asks_again:
        more = (*more, (b"retry-after", b"%d" % (refusal.retry_after_s or guard.retry_after_s())))
    if refusal.detail == CLOSING:
        more = (*more, (b"connection", b"close"))
    return Answer(status, error_body(refusal), more)


def error_body(refusal: Refusal) -> bytes:
    rejection = refusal.rejection
    message = f"{rejection.message} ({refusal.detail})" if refusal.detail else rejection.message
    return _encode(
        {"success": False, "code": rejection.name, "message": message[:MAX_DETAIL_CHARS], "hint": rejection.hint}
    )
