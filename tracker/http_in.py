"""The hot path: POST /v1/track and its like, in plain ASGI. FastAPI's routing would take three times as long.

    key -> site -> body (deadline, cap, inflate, text) -> intake steps -> Kafka out -> its ack -> answer

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
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from tracker import metrics
from tracker.contract.events import EVENT_TYPES
from tracker.contract.producer import Full, KafkaOut, ProduceError
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS, DeadLetter
from tracker.intake import Call, Draft, take
from tracker.intake.body import GZIP_MAGIC, Batch, inflate, read_batch, read_key, read_text
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


class Request(NamedTuple):
    route: str
    type: str | None
    headers: dict[bytes, bytes]
    query: bytes


class Result(msgspec.Struct, rename="camel", omit_defaults=True):
    """What became of one event, for ?verbose=1."""

    message_id: str | None
    status: str
    reason: str | None = None
    detail: str | None = None


class Gone(Exception):
    """The client hung up; nobody waits for an answer."""


class HttpIn:
    def __init__(self, settings: Settings, kafka: KafkaOut, now_ms: Callable[[], int] | None = None) -> None:
        self._kafka = kafka
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._max_request_bytes = settings.max_request_bytes
        self._max_event_bytes = settings.max_event_bytes
        self._max_batch_events = settings.max_batch_events
        self._owners: dict[str, Owner] = {}
        for name, site in settings.sites.items():
            origins = frozenset(origin.rstrip("/").lower().encode() for origin in site.origins)
            self._owners[site.write_key] = Owner(name, "client", origins)
            self._owners[site.secret_key] = Owner(name, "import", origins)
        # Unique as a uuid, and 1 us cheaper: a random part of this process and a count.
        run, count = uuid.uuid4().hex, itertools.count(1)
        self._make_id = lambda: f"{run}-{next(count):x}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is in ROUTES."""
        started_s = time.perf_counter()
        route, kind = ROUTES[scope["path"]]
        method = scope["method"]
        request = Request(route, kind, dict(scope["headers"]), scope["query_string"])
        cors: Iterable[Header] = _ANY_ORIGIN
        more: tuple[Header, ...] = ()
        status, body = 200, _OK
        try:
            if method == "POST":
                cors, refusal, results = await self._take(request, receive)
                if refusal is not None:
                    status, body, more = _refused(refusal)
                elif results is not None:
                    body = _encode({"success": True, "results": results})
            elif method == "OPTIONS":
                status, body, more = 204, b"", self._preflight(request)
                cors = ()
            else:
                status, body, more = _refused(refuse(METHOD_NOT_ALLOWED, f"{method} {route}"))
                more = (*more, (b"allow", b"POST, OPTIONS"))
        except Gone:
            return
        except Exception:  # a surprise of ours must not look like a refusal of theirs
            log.exception("%s failed", route)
            status, body, more = _refused(refuse(INTERNAL_ERROR))
        headers = [] if status == 204 else [_JSON, (b"content-length", b"%d" % len(body))]
        if b"origin" in request.headers:
            headers += cors
        headers += more
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        metrics.answered(route, method, status, time.perf_counter() - started_s)

    async def _take(
        self, request: Request, receive: Receive
    ) -> tuple[Iterable[Header], Refusal | None, list[Result] | None]:
        """-> CORS headers, why the request as a whole is refused, results of its events if asked for."""
        headers = request.headers
        content = self._content(await self._read_body(receive), request)
        now_ms = self._now_ms()
        owner = self._owner(request, content)
        if isinstance(owner, Refusal):
            # A key in a body that can't be read is not missing.
            if owner.rejection is MISSING_KEY and isinstance(content, Refusal):
                owner = content
            return _ANY_ORIGIN, owner, None
        cors: Iterable[Header] = _ANY_ORIGIN
        if owner.origins:
            origin = headers.get(b"origin")
            cors = _cors(owner, origin)
            if origin is not None and owner.source == "client" and origin.lower() not in owner.origins:
                return cors, refuse(ORIGIN_NOT_ALLOWED), None
        if isinstance(content, Refusal):
            return cors, content, None
        call = Call(owner.site, owner.source, now_ms, self._make_id, self._max_event_bytes, request.type)
        verbose = b"verbose=1" in request.query
        results: list[Result] | None = None
        try:
            if isinstance(content, Batch):
                refusal, results = await self._take_batch(content, call, verbose)
            else:
                refusal, results = await self._take_one(content, call, verbose)
        except Full as e:
            refusal = refuse(OVERLOADED, str(e))
        except ProduceError as e:
            refusal = refuse(KAFKA_UNAVAILABLE, str(e))
        return cors, refusal, results if verbose else None

    async def _take_one(self, body: bytes, call: Call, verbose: bool) -> tuple[Refusal | None, list[Result]]:
        draft, refusal = take(body, call)
        if refusal is not None:
            return refusal, []
        await asyncio.shield(self._kafka.append(EVENTS, draft.key, draft.value, call.now_ms))
        _count(call, (draft,))
        return None, [_result(draft, None)] if verbose else []

    async def _take_batch(self, batch: Batch, call: Call, verbose: bool) -> tuple[Refusal | None, list[Result]]:
        if len(batch.batch) > self._max_batch_events:
            return refuse(TOO_MANY_EVENTS, f"{len(batch.batch)} events; the limit is {self._max_batch_events}"), []
        call.sent_at, call.context, call.message_id = batch.sent_at, batch.context, batch.message_id
        taken: list[Draft] = []
        refused: list[str] = []
        results: list[Result] = []
        waits: set[asyncio.Future[None]] = set()
        append = self._kafka.append
        for index, original in enumerate(batch.batch):
            draft, refusal = take(bytes(original), call, index)
            if refusal is None:
                taken.append(draft)
                waits.add(append(EVENTS, draft.key, draft.value, call.now_ms))
            else:
                refused.append(refusal.rejection.name)
                waits.add(append(DEAD_LETTERS, None, self._dead_letter(draft, refusal, call), call.now_ms))
            if verbose:
                results.append(_result(draft, refusal))
        for done in waits:
            await asyncio.shield(done)
        _count(call, taken)
        for reason in refused:
            metrics.REJECTED[reason].inc()
            metrics.DEAD_LETTERS[reason].inc()
        return None, results

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

    def _content(self, body: bytes | Refusal, request: Request) -> bytes | Batch | Refusal:
        """The body without compression: an event's JSON, or a batch."""
        if not isinstance(body, Refusal):
            encoding = request.headers.get(b"content-encoding")
            if encoding is not None or body.startswith(GZIP_MAGIC):
                body = inflate(body, (encoding or b"").decode("latin-1").strip().lower(), self._max_request_bytes)
        if not isinstance(body, Refusal):
            body = read_text(body)
        return read_batch(body) if request.type is None and not isinstance(body, Refusal) else body

    async def _read_body(self, receive: Receive) -> bytes | Refusal:
        """The whole body, at most max_request_bytes of it. tracker/http_protocol.py has the deadline. Raises Gone."""
        cap = self._max_request_bytes
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size <= cap:
                parts.append(part)
            elif size > cap * SKIPPED_BODIES:
                return refuse(REQUEST_TOO_LARGE, CLOSING)
            if not message.get("more_body", False):
                break
        if size > cap:
            return refuse(REQUEST_TOO_LARGE, f"{size} bytes; the limit is {cap}")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _owner(self, request: Request, content: bytes | Batch | Refusal) -> Owner | Refusal:
        """Whose key it is: Basic user name, X-Write-Key, body writeKey, ?writeKey=, in this order."""
        headers = request.headers
        authorization, key = headers.get(b"authorization"), None
        if authorization is not None:
            key = _basic_user(authorization)
        if not key and (plain := headers.get(b"x-write-key")) is not None:
            key = plain.decode("latin-1").strip()
        if key:
            return self._owners.get(key) or refuse(INVALID_KEY)
        if isinstance(content, Refusal):
            found = None
        else:
            found = content.write_key if isinstance(content, Batch) else read_key(content)
        found = found or _query_key(request.query)
        if not found:
            return refuse(MISSING_KEY)
        owner = self._owners.get(found)
        if owner is None:
            return refuse(INVALID_KEY)
        return owner if owner.source == "client" else refuse(MISPLACED_SECRET_KEY)

    def _preflight(self, request: Request) -> tuple[Header, ...]:
        """A preflight seldom tells the key, so it allows what some site may allow; the answer to POST is exact."""
        owner = self._owners.get(_query_key(request.query) or "")
        origin = request.headers.get(b"origin")
        cors = _ANY_ORIGIN if owner is None or not owner.origins else _cors(owner, origin)
        asked = request.headers.get(b"access-control-request-headers", b"")[:1000]
        return (*cors, *_PREFLIGHT, *(((b"access-control-allow-headers", asked),) if asked else ()))


CLOSING: Final = "the connection is closed"
"""Detail of a refusal that came before the body's end: what follows on the connection can't be told apart from it."""


def _count(call: Call, drafts: Iterable[Draft]) -> None:
    """Count what Kafka has acked: once a type, not once an event."""
    types: dict[str | None, int] = {}
    clamped, skew_ms = 0, None
    for draft in drafts:
        kind = draft.wire.type
        types[kind] = types.get(kind, 0) + 1
        clamped += draft.clamped
        skew_ms = draft.skew_ms
    for kind, events in types.items():
        metrics.ACCEPTED[call.source, kind or ""].inc(events)
    if types:
        metrics.site_accepted(call.site, sum(types.values()))
    if clamped:
        metrics.CLAMPED.inc(clamped)
    if skew_ms is not None:  # one clock a request
        metrics.SKEW_SECONDS.observe(abs(skew_ms) / 1000)


def _result(draft: Draft, refusal: Refusal | None) -> Result:
    if refusal is None:
        return Result(draft.wire.message_id, "ok")
    return Result(draft.wire.message_id, "rejected", refusal.rejection.name, refusal.detail or None)


def _refused(refusal: Refusal) -> tuple[int, bytes, tuple[Header, ...]]:
    """A refusal of the whole request -> status, body, headers."""
    rejection = refusal.rejection
    metrics.REJECTED[rejection.name].inc()
    more: tuple[Header, ...] = ()
    if rejection.status in (408, 429) or rejection.status >= 500:
        more = ((b"retry-after", b"%d" % RETRY_AFTER_S),)
    if refusal.detail == CLOSING:
        more = (*more, (b"connection", b"close"))
    return rejection.status, error_body(refusal), more


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


__all__ = ["ROUTES", "HttpIn", "error_body"]
