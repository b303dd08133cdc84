"""The hot path: POST /v1/track and its like.

    body (deadline, cap) -> inflate, text -> key -> site -> intake steps -> Kafka out -> its ack -> answer

It has two front doors with the same decisions behind them (`HttpIn.take`): tracker/http_protocol.py answers the usual
request straight from the parser, at half the time of an ASGI cycle; `HttpIn.__call__` is plain ASGI for what that
leaves alone (pipelined requests, Expect, HTTP/1.0, preflights). FastAPI's routing would take three times as long.

200 {"success": true} means that Kafka has acked every event of the request. What is wrong with one event of a batch
goes to the dead letters with its reason, and the batch goes on. Every answer is JSON, and carries CORS headers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import logging
import time
import uuid
from collections.abc import Callable, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from tracker import metrics
from tracker.contract.events import EVENT_TYPES
from tracker.contract.producer import Full, KafkaOut, ProduceError
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS, DeadLetter
from tracker.intake import Call, Draft, read_event, take
from tracker.intake.body import GZIP_MAGIC, Batch, inflate, read_batch, read_key, read_text, text_of
from tracker.intake.draft import UNREAD, Wire
from tracker.rejections import (
    INTERNAL_ERROR,
    INVALID_KEY,
    KAFKA_UNAVAILABLE,
    METHOD_NOT_ALLOWED,
    MISPLACED_SECRET_KEY,
    MISSING_KEY,
    ORIGIN_NOT_ALLOWED,
    OVERLOADED,
    REQUEST_TOO_LARGE,
    TOO_MANY_EVENTS,
    Refusal,
    refuse,
)

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]
Header = tuple[bytes, bytes]

RETRY_AFTER_S: Final = 5
SKIPPED_BODIES: Final = 8
"""A body over the cap is read on and thrown away, up to so many caps, so that the connection stays usable."""
MAX_DETAIL_CHARS: Final = 300

ROUTES: Final[dict[str, tuple[str, str | None]]] = {
    **{f"/v1/{kind}": (f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    **{f"/v1/{kind[0]}": (f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    "/v1/batch": ("/v1/batch", None),
    "/v1/b": ("/v1/batch", None),
}
"""Path -> (its name in metrics, the call it makes; None for a batch)."""

_encode = msgspec.json.Encoder().encode
_OK: Final = b'{"success":true}'
_JSON: Final = (b"content-type", b"application/json")
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"POST, GET, OPTIONS"),
    (b"access-control-max-age", b"86400"),
    (b"vary", b"Origin, Access-Control-Request-Headers"),
)
_ANY_ORIGIN: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After"),
)


class Owner(NamedTuple):
    """Who a key belongs to."""

    site: str
    source: str
    """'client' for the write key, 'import' for the secret key."""
    origins: frozenset[bytes]
    """Origins whose pages may send; empty: all."""


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    """All but content-type and content-length."""


OK: Final = Answer(200, _OK)
OK_ANY_ORIGIN: Final = Answer(200, _OK, _ANY_ORIGIN)


class Post:
    """A POST to one of ROUTES from its head to its answer. A front door is a subclass: it says where answers go."""

    __slots__ = ("acks", "cors", "headers", "ok", "query", "route", "started_s", "tally", "type")

    def __init__(self, route: str, kind: str | None, headers: dict[bytes, bytes], query: bytes) -> None:
        self.route = route
        self.type = kind
        self.headers = headers
        self.query = query
        self.started_s = time.perf_counter()
        self.cors: tuple[Header, ...] = _ANY_ORIGIN
        self.acks = 0
        """Batches of Kafka that it still waits for."""
        self.ok = OK
        self.tally: Tally = NO_TALLY

    def answer(self, answer: Answer) -> None:
        raise NotImplementedError


class Result(msgspec.Struct, rename="camel", omit_defaults=True):
    """What became of one event, for ?verbose=1."""

    message_id: str | None
    status: str
    reason: str | None = None
    detail: str | None = None


class Tally(NamedTuple):
    """What of a request is counted when Kafka has acked it."""

    source: str
    site: str
    types: dict[str, int]
    clamped: int
    skew_ms: int | None
    refused: list[str]


NO_TALLY: Final = Tally("", "", {}, 0, None, [])


class Gone(Exception):
    """The client hung up; nobody waits for an answer."""


class HttpIn:
    def __init__(self, settings: Settings, kafka: KafkaOut, now_ms: Callable[[], int] | None = None) -> None:
        self._kafka = kafka
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.max_request_bytes = settings.max_request_bytes
        self._max_event_bytes = settings.max_event_bytes
        self._max_batch_events = settings.max_batch_events
        self._waiting: dict[asyncio.Future[None], list[Post]] = {}
        """Ack of a batch -> who waits for it."""
        self._owners: dict[str, Owner] = {}
        for name, site in settings.sites.items():
            origins = frozenset(origin.rstrip("/").lower().encode() for origin in site.origins)
            self._owners[site.write_key] = Owner(name, "client", origins)
            self._owners[site.secret_key] = Owner(name, "import", origins)
        # Unique as a uuid, and 1 us cheaper: a random part of this process and a count.
        run, count = uuid.uuid4().hex, itertools.count(1)
        self._make_id = lambda: f"{run}-{next(count):x}"

    def take(self, post: Post, body: bytes | Refusal) -> None:
        """Decide what becomes of a request; `post.answer` is called once, now or when Kafka has acked."""
        try:
            refusal = self._take(post, body)
        except Full as e:
            refusal = refuse(OVERLOADED, str(e))
        except ProduceError as e:
            refusal = refuse(KAFKA_UNAVAILABLE, str(e))
        except Exception:  # a surprise of ours must not look like a refusal of theirs
            log.exception("%s failed", post.route)
            refusal = refuse(INTERNAL_ERROR)
        if refusal is not None:
            _answer(post, _refused(refusal, post))
        elif not post.acks:  # an empty batch
            self._done(post)

    def _take(self, post: Post, body: bytes | Refusal) -> Refusal | None:
        """-> why the request as a whole is refused. If it is not, it waits for `post.acks` batches."""
        headers = post.headers
        content = self._content(body, post)
        now_ms = self._now_ms()
        wire = read_event(content, self._max_event_bytes) if isinstance(content, bytes) else None
        owner = self._owner(post, content, wire)
        if isinstance(owner, Refusal):
            # A key in a body that can't be read is not missing.
            return content if owner.rejection is MISSING_KEY and isinstance(content, Refusal) else owner
        if owner.origins:
            origin = headers.get(b"origin")
            post.cors = _cors(owner, origin)
            if origin is not None and owner.source == "client" and origin.lower() not in owner.origins:
                return refuse(ORIGIN_NOT_ALLOWED)
        if isinstance(content, Refusal):
            return content
        call = Call(owner.site, owner.source, now_ms, self._make_id, self._max_event_bytes, post.type)
        verbose = b"verbose=1" in post.query
        if isinstance(content, Batch):
            return self._take_batch(content, call, post, verbose)
        if isinstance(wire, Refusal):
            return wire
        draft, refusal = take(content, call, 0, wire or UNREAD)
        if refusal is not None:
            return refusal
        ack = self._kafka.append(EVENTS, draft.key, draft.value, now_ms)
        post.tally = Tally(call.source, call.site, {draft.type: 1}, draft.clamped, draft.skew_ms, NO_TALLY.refused)
        post.ok = _ok(post, [_result(draft, None)] if verbose else None)
        self._wait(post, ack)
        return None

    def _take_batch(self, batch: Batch, call: Call, post: Post, verbose: bool) -> Refusal | None:
        if len(batch.batch) > self._max_batch_events:
            return refuse(TOO_MANY_EVENTS, f"{len(batch.batch)} events; the limit is {self._max_batch_events}")
        call.sent_at, call.context, call.message_id = batch.sent_at, batch.context, batch.message_id
        types: dict[str, int] = {}
        clamped, skew_ms = 0, None
        refused: list[str] = []
        results: list[Result] = []
        acks: set[asyncio.Future[None]] = set()
        kafka = self._kafka
        records: dict[bytes, list[tuple[bytes | None, bytes]]] = {}
        letters: list[bytes] = []
        for index, original in enumerate(batch.batch):
            draft, refusal = take(bytes(original), call, index)
            if refusal is None:
                same = records.get(draft.key)
                if same is None:
                    records[draft.key] = [(draft.key, draft.value)]
                else:
                    same.append((draft.key, draft.value))
                types[draft.type] = types.get(draft.type, 0) + 1
                clamped += draft.clamped
                skew_ms = draft.skew_ms
            else:
                refused.append(refusal.rejection.name)
                letters.append(self._dead_letter(draft, refusal, call))
            if verbose:
                results.append(_result(draft, refusal))
        for key, of_key in records.items():
            acks |= kafka.extend(EVENTS, kafka.partition_of(EVENTS, key), of_key, call.now_ms)
        for letter in letters:
            acks.add(kafka.append(DEAD_LETTERS, None, letter, call.now_ms))
        post.tally = Tally(call.source, call.site, types, clamped, skew_ms, refused)
        post.ok = _ok(post, results if verbose else None)
        for ack in acks:
            self._wait(post, ack)
        return None

    def _wait(self, post: Post, ack: asyncio.Future[None]) -> None:
        post.acks += 1
        waiting = self._waiting.get(ack)
        if waiting is None:
            self._waiting[ack] = [post]
            ack.add_done_callback(self._acked)  # one for all of them: each call of it goes through the loop
        else:
            waiting.append(post)

    def _acked(self, ack: asyncio.Future[None]) -> None:
        error = ack.exception()
        for post in self._waiting.pop(ack):
            if error is None:
                post.acks -= 1
                if not post.acks:
                    self._done(post)
            elif post.acks > 0:
                post.acks = 0  # its other batches bring it below zero: they find it answered
                _answer(post, _refused(refuse(KAFKA_UNAVAILABLE, str(error)), post))

    @staticmethod
    def _done(post: Post) -> None:
        _count(post.tally)
        _answer(post, post.ok)

    # -- the ASGI door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is in ROUTES."""
        route, kind = ROUTES[scope["path"]]
        method = scope["method"]
        post = _Awaited(route, kind, dict(scope["headers"]), scope["query_string"])
        if method == "POST":
            try:
                body = await self._read_body(receive)
            except Gone:
                return
            self.take(post, body)
            answer = await post.answered
        else:
            if method == "OPTIONS":
                answer = Answer(204, b"", self._preflight(post))
            else:
                answer = _refused(refuse(METHOD_NOT_ALLOWED, f"{method} {route}"), post)
                answer = answer._replace(headers=(*answer.headers, (b"allow", b"POST, OPTIONS")))
            metrics.answered(route, method, answer.status, time.perf_counter() - post.started_s)
        lines = [] if answer.status == 204 else [_JSON, (b"content-length", b"%d" % len(answer.body))]
        lines += answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await send({"type": "http.response.body", "body": answer.body})

    def _dead_letter(self, draft: Draft, refusal: Refusal, call: Call) -> bytes:
        rejection, original = refusal.rejection, draft.original
        detail = f"{rejection.message} {refusal.detail}".strip()
        if len(original) > self._max_event_bytes:  # a record of Kafka has a limit, too
            detail += f"; kept: the first {self._max_event_bytes} of {len(original)} bytes"
            original = original[: self._max_event_bytes]
        return _encode(
            DeadLetter(
                reason=rejection.name,
                detail=detail[:MAX_DETAIL_CHARS],
                stage="endpoint",
                at_ms=call.now_ms,
                original=original,
                site=call.site,
            )
        )

    # -- parts of a request

    def _content(self, body: bytes | Refusal, post: Post) -> bytes | Batch | Refusal:
        """The body without compression: an event's JSON, or a batch."""
        if not isinstance(body, Refusal):
            encoding = post.headers.get(b"content-encoding")
            if encoding is not None or body.startswith(GZIP_MAGIC):
                body = inflate(body, (encoding or b"").decode("latin-1").strip().lower(), self.max_request_bytes)
        if not isinstance(body, Refusal):
            body = read_text(body)
        return read_batch(body) if post.type is None and not isinstance(body, Refusal) else body

    async def _read_body(self, receive: Receive) -> bytes | Refusal:
        """The whole body, at most max_request_bytes of it. tracker/http_protocol.py has the deadline. Raises Gone."""
        body = Body(self.max_request_bytes)
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            if not body.add(message.get("body", b"")):
                break
            more = message.get("more_body", False)
        return body.whole()

    def _owner(self, post: Post, content: bytes | Batch | Refusal, wire: Wire | Refusal | None) -> Owner | Refusal:
        """Whose key it is: Basic user name, X-Write-Key, body writeKey, ?writeKey=, in this order."""
        headers = post.headers
        authorization, key = headers.get(b"authorization"), None
        if authorization is not None:
            key = _basic_user(authorization)
        if not key and (plain := headers.get(b"x-write-key")) is not None:
            key = plain.decode("latin-1").strip()
        if key:
            return self._owners.get(key) or refuse(INVALID_KEY)
        if isinstance(content, Refusal):
            found = None
        elif isinstance(content, Batch):
            found = content.write_key
        else:
            found = text_of(wire.write_key) if isinstance(wire, Wire) else read_key(content)
        found = found or _query_key(post.query)
        if not found:
            return refuse(MISSING_KEY)
        owner = self._owners.get(found)
        if owner is None:
            return refuse(INVALID_KEY)
        return owner if owner.source == "client" else refuse(MISPLACED_SECRET_KEY)

    def _preflight(self, post: Post) -> tuple[Header, ...]:
        """A preflight seldom tells the key, so it allows what some site may allow; the answer to POST is exact."""
        owner = self._owners.get(_query_key(post.query) or "")
        origin = post.headers.get(b"origin")
        cors = _ANY_ORIGIN if owner is None or not owner.origins else _cors(owner, origin)
        asked = post.headers.get(b"access-control-request-headers", b"")[:1000]
        return (*cors, *_PREFLIGHT, *(((b"access-control-allow-headers", asked),) if asked else ()))


CLOSING: Final = "the connection is closed"
"""Detail of a refusal that came before the body's end: what follows on the connection can't be told apart from it."""


class _Awaited(Post):
    """The ASGI door's."""

    __slots__ = ("answered",)

    def __init__(self, route: str, kind: str | None, headers: dict[bytes, bytes], query: bytes) -> None:
        super().__init__(route, kind, headers, query)
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answer(self, answer: Answer) -> None:
        if not self.answered.done():  # cancelled at the end of the process
            self.answered.set_result(answer)


class Body:
    """A body as it comes in, at most `cap` bytes of it in memory."""

    __slots__ = ("_cap", "_parts", "_size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> bool:
        """False: it is so far over the cap that nothing more is read."""
        self._size += len(part)
        if self._size <= self._cap:
            self._parts.append(part)
        return self._size <= self._cap * SKIPPED_BODIES

    def whole(self) -> bytes | Refusal:
        if self._size <= self._cap:
            return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._size > self._cap * SKIPPED_BODIES:
            return refuse(REQUEST_TOO_LARGE, CLOSING)
        return refuse(REQUEST_TOO_LARGE, f"{self._size} bytes; the limit is {self._cap}")


def _answer(post: Post, answer: Answer) -> None:
    metrics.answered(post.route, "POST", answer.status, time.perf_counter() - post.started_s)
    try:
        post.answer(answer)
    except Exception:  # one client's connection must not keep the others from their answers
        log.exception("%s could not be answered", post.route)


def _ok(post: Post, results: list[Result] | None) -> Answer:
    """The answer for when Kafka has acked."""
    if results is None:
        if b"origin" not in post.headers:
            return OK
        return OK_ANY_ORIGIN if post.cors is _ANY_ORIGIN else Answer(200, _OK, post.cors)
    return Answer(200, _encode({"success": True, "results": results}), post.cors if b"origin" in post.headers else ())


def _count(tally: Tally) -> None:
    """Count what Kafka has acked: once a type, not once an event."""
    for kind, events in tally.types.items():
        metrics.ACCEPTED[tally.source, kind].inc(events)
    if tally.types:
        metrics.site_accepted(tally.site, sum(tally.types.values()))
    if tally.clamped:
        metrics.CLAMPED.inc(tally.clamped)
    if tally.skew_ms is not None:  # one clock a request
        metrics.SKEW_SECONDS.observe(abs(tally.skew_ms) / 1000)
    for reason in tally.refused:
        metrics.REJECTED[reason].inc()
        metrics.DEAD_LETTERS[reason].inc()


def _result(draft: Draft, refusal: Refusal | None) -> Result:
    if refusal is None:
        return Result(draft.wire.message_id, "ok")
    return Result(draft.wire.message_id, "rejected", refusal.rejection.name, refusal.detail or None)


def _refused(refusal: Refusal, post: Post) -> Answer:
    """A refusal of the whole request, counted."""
    rejection = refusal.rejection
    metrics.REJECTED[rejection.name].inc()
    more = post.cors if b"origin" in post.headers else ()
    if rejection.status in (408, 429) or rejection.status >= 500:
        more = (*more, (b"retry-after", b"%d" % RETRY_AFTER_S))
    if refusal.detail == CLOSING:
        more = (*more, (b"connection", b"close"))
    return Answer(rejection.status, error_body(refusal), more)


def error_body(refusal: Refusal) -> bytes:
    rejection = refusal.rejection
    message = f"{rejection.message} ({refusal.detail})" if refusal.detail else rejection.message
    return _encode(
        {"success": False, "code": rejection.name, "message": message[:MAX_DETAIL_CHARS], "hint": rejection.hint}
    )


def _cors(owner: Owner, origin: bytes | None) -> tuple[Header, ...]:
    """Of a site that lists its origins: one of them is echoed, others get none."""
    if origin is None or origin.lower() not in owner.origins:
        return ((b"vary", b"Origin"),)
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"Retry-After"),
        (b"vary", b"Origin"),
    )


def _basic_user(authorization: bytes) -> str:
    """User name of a Basic Authorization header, or ''."""
    if authorization[:6].lower() != b"basic ":
        return ""
    try:
        return base64.b64decode(authorization[6:].strip(), validate=True).partition(b":")[0].decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        return "\0"  # a header that can't be read is not the same as none: it is an unknown key


def _query_key(query: bytes) -> str | None:
    if b"writeKey" not in query:
        return None
    return parse_qs(query.decode("latin-1")).get("writeKey", [None])[0]


__all__ = ["OK", "OK_ANY_ORIGIN", "ROUTES", "Answer", "Body", "HttpIn", "Post", "error_body"]
