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
import itertools
import logging
import re
import time
import uuid
from collections.abc import Callable, MutableMapping
from functools import partial
from hashlib import blake2b
from typing import Any, Final

from tracker import cors, metrics
from tracker.contract.codec import message_hash
from tracker.contract.durations import DAY_MS
from tracker.contract.producer import Full, ProduceError
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.dead_letters import letter_of
from tracker.durable import Durable, SpoolFull
from tracker.intake import Call, Draft, read_event, take
from tracker.intake.body import GZIP_MAGIC, Batch, inflate, read_batch, read_key, read_text, text_of
from tracker.intake.calls import batch_of_calls
from tracker.intake.draft import UNREAD, Wire
from tracker.keys import Keys, Owner
from tracker.limits import Guard
from tracker.post import Answer, Body, Post, Result, Tally, accepted, refused
from tracker.recent import Recent
from tracker.rejections import (
    INTERNAL_ERROR,
    KAFKA_UNAVAILABLE,
    METHOD_NOT_ALLOWED,
    MISSING_KEY,
    ORIGIN_NOT_ALLOWED,
    OVERLOADED,
    SPOOL_FULL,
    Refusal,
    refuse,
)
from tracker.routes import Route, routes_of

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[MutableMapping[str, Any]], Any]

_COOKIE: Final = re.compile(rb"(?:^|; )trk_anonymous_id=([\w-]{1,200})")
"""The snippet's, where the endpoint is of the page's own site."""
_JSON: Final = (b"content-type", b"application/json")
FULL_S: Final = 0.02
"""After a request that nothing had room for, others of its size are not even read for so long."""


class Gone(Exception):
    """The client hung up; nobody waits for an answer."""


class HttpIn:
    def __init__(
        self, settings: Settings, kafka: Durable, guard: Guard, now_ms: Callable[[], int] | None = None
    ) -> None:
        self._kafka = kafka
        self.guard = guard
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._max_request_bytes = settings.max_request_bytes
        self.new_body = partial(Body, settings.max_request_bytes, settings.skipped_bodies)
        self._max_event_bytes = settings.max_event_bytes
        self._max_batch_events = settings.max_batch_events
        self._waiting: dict[asyncio.Future[None], list[Post]] = {}
        """Ack of a batch -> who waits for it."""
        self.keys = Keys(settings)
        self.routes = routes_of(settings)
        self.targets = {path.encode(): route for path, route in self.routes.items()}
        self._salt = blake2b(
            "".join(site.secret_key for site in settings.sites.values()).encode(), person=b"stub"
        ).digest()
        """Nobody who does not have the sites' secret keys can make the ids of stubs."""
        self._recent = Recent()
        self._full: Refusal | None = None
        self._full_until_s, self._full_bytes = 0.0, 0
        # Unique as a uuid, and 1 us cheaper: a random part of this process and a count.
        run, count = uuid.uuid4().hex, itertools.count(1)
        self._make_id = lambda: f"{run}-{next(count):x}"

    def take(self, post: Post, body: bytes | Refusal) -> None:
        """Decide what becomes of a request; `post.answer` is called once, now or when Kafka has acked."""
        try:
            refusal = self._take(post, body)
        except ProduceError as e:
            refusal = _not_taken(e)
            if isinstance(e, Full) and isinstance(body, bytes):
                self._full, self._full_bytes = refusal, len(body)
                self._full_until_s = time.perf_counter() + FULL_S
        except Exception:  # a surprise of ours must not look like a refusal of theirs
            log.exception("%s failed", post.route.metric)
            refusal = refuse(INTERNAL_ERROR)
        if refusal is not None:
            self._refuse(post, refusal)
        elif not post.acks:  # an empty batch
            self._done(post)

    def _take(self, post: Post, body: bytes | Refusal) -> Refusal | None:
        """-> why the request as a whole is refused. If it is not, it waits for `post.acks` batches."""
        if self._full is not None and (refusal := self._still_full(body)) is not None:
            return refusal
        limits = self.guard.limits
        if (refusal := limits.request(post.ip, post.started_s)) is not None:
            return refusal
        content: bytes | Batch | Refusal = b""
        wire: Wire | Refusal = UNREAD
        found = self.keys.in_head(post.headers)
        if not isinstance(found, Refusal):  # else nobody needs to know what the body says
            content = self._content(body, post)
            if isinstance(content, bytes):
                wire = read_event(content, self._max_event_bytes)
        owner = limits.guess(found or self._open_key(post, content, wire), post.ip, post.started_s)
        if isinstance(owner, Refusal):
            # A key in a body that can't be read is not missing.
            return content if owner.rejection is MISSING_KEY and isinstance(content, Refusal) else owner
        if owner.origins:
            origin = post.headers.get(b"origin")
            post.cors = cors.headers(owner, origin)
            if not cors.allowed(owner, origin):
                return refuse(ORIGIN_NOT_ALLOWED)
        if isinstance(content, Refusal):
            return content
        call = Call(
            owner.site, owner.source, self._now_ms(), self._make_id, self._max_event_bytes, post.route.type,
            ip=post.ip, user_agent=_browser(post.headers), policy=owner.policy,
        )  # fmt: skip
        verbose = post.query != b"" and b"verbose=1" in post.query.split(b"&")
        if isinstance(content, Batch):
            return self._take_batch(content, call, post, owner, verbose)
        if (refusal := limits.events(owner, 1, post.started_s)) is not None:
            return refusal
        draft, refusal = take(wire, call)
        repeat = False
        if refusal is not None:
            if not refusal.rejection.drops:
                return refusal
            post.tally = Tally(call.source, call.site, {}, dropped=(refusal.rejection.name,))
        elif not (verbose and (repeat := self._repeats(draft, call, post))):
            ack = self._kafka.append(EVENTS, draft.key, draft.value, call.now_ms)
            post.tally = Tally(call.source, call.site, {draft.type: 1}, draft.clamped, draft.stripped, draft.skew_ms)
            self._wait(post, ack)
        post.ok = accepted(post, [_result(draft, refusal, repeat)] if verbose else None)
        return None

    def _still_full(self, body: bytes | Refusal) -> Refusal | None:
        """The refusal of a request before this one, if it was just now and for no larger body: to find out again by
        reading all of the events would take the time that those need who do get in."""
        if time.perf_counter() > self._full_until_s:
            self._full = None
        return self._full if isinstance(body, bytes) and len(body) >= self._full_bytes else None

    def _take_batch(self, batch: Batch, call: Call, post: Post, owner: Owner, verbose: bool) -> Refusal | None:
        events, around = batch.events, batch.around
        if (refusal := self.guard.limits.events(owner, len(events), post.started_s)) is not None:
            return refusal
        call.sent_at, call.message_id = around.sent_at, around.message_id
        call.context, call.integrations = around.context, around.integrations
        types: dict[str, int] = {}
        clamped, anonymous, skew_ms = 0, 0, None
        dead: list[str] = []
        dropped: list[str] = []
        results: list[Result] = []
        acks: set[asyncio.Future[None]] = set()
        kafka = self._kafka
        records: dict[bytes, list[tuple[bytes | None, bytes]]] = {}
        letters: list[bytes] = []
        for index, event in enumerate(events):
            draft, refusal = take(event, call, index)
            repeat = False
            if refusal is not None:
                if refusal.rejection.drops:
                    dropped.append(refusal.rejection.name)
                else:
                    dead.append(refusal.rejection.name)
                    letters.append(letter_of(batch.original(index), index, refusal, call))
            elif not (verbose and (repeat := self._repeats(draft, call, post))):
                key, kind = draft.key, draft.wire.type or ""
                same = records.get(key)
                if same is None:
                    records[key] = [(key, draft.value)]
                else:
                    same.append((key, draft.value))
                types[kind] = types.get(kind, 0) + 1
                if draft.clamped:
                    clamped += 1
                if draft.visitor.daily_id:
                    anonymous += 1
                skew_ms = draft.skew_ms
            if verbose:
                results.append(_result(draft, refusal, repeat))
        for key, of_key in records.items():
            acks |= kafka.extend(EVENTS, kafka.partition_of(EVENTS, key), of_key, call.now_ms)
        for letter in letters:
            acks.add(kafka.append(DEAD_LETTERS, None, letter, call.now_ms))
        post.tally = Tally(call.source, call.site, types, clamped, anonymous, skew_ms, dead, dropped)
        post.ok = accepted(post, results if verbose else None)
        for ack in acks:
            self._wait(post, ack)
        return None

    def _repeats(self, draft: Draft, call: Call, post: Post) -> bool:
        """Was it acked before, or does it stand in the same batch already? If not, it will be known from its ack on."""
        found = message_hash(call.site, draft.wire.message_id or "")
        known = post.known = post.known or []
        if found in self._recent or found in known:
            return True
        known.append(found)
        return False

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
                self._refuse(post, _not_taken(error))

    def _refuse(self, post: Post, refusal: Refusal) -> None:
        metrics.REJECTED[refusal.rejection.name].inc()
        _answer(post, refused(refusal, post, self.guard))

    def _done(self, post: Post) -> None:
        _count(post.tally)
        if post.known:
            self._recent.add(post.known)
        _answer(post, post.ok)

    # -- the ASGI door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is in `routes`."""
        route, method = self.routes[scope["path"]], scope["method"]
        post = Awaited(route, *self.guard.sender(scope), scope["query_string"])
        if method == "POST":
            try:
                body = await self._read_body(receive)
            except Gone:
                return
            self.take(post, body)
            answer = await post.answered
        else:
            if method == "OPTIONS":
                answer = Answer(204, b"", cors.preflight(self.keys.of_query(post.query), post.headers))
            else:
                refusal = refuse(METHOD_NOT_ALLOWED, f"{method} {route.metric}")
                metrics.REJECTED[refusal.rejection.name].inc()
                answer = refused(refusal, post, self.guard)
                answer = answer._replace(headers=(*answer.headers, (b"allow", b"POST, OPTIONS")))
            metrics.answered(route.metric, method, answer.status, time.perf_counter() - post.started_s)
        lines = [] if answer.status == 204 else [_JSON, (b"content-length", b"%d" % len(answer.body))]
        lines += answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await send({"type": "http.response.body", "body": answer.body})

    # -- parts of a request

    def _content(self, body: bytes | Refusal, post: Post) -> bytes | Batch | Refusal:
        """The body without compression: an event's JSON, or a batch."""
        if not isinstance(body, Refusal):
            encoding = post.headers.get(b"content-encoding")
            if encoding is not None or body.startswith(GZIP_MAGIC):
                body = inflate(body, (encoding or b"").decode("latin-1").strip().lower(), self._max_request_bytes)
        if not isinstance(body, Refusal):
            body = read_text(body)
        if not post.route.batch or isinstance(body, Refusal):
            return body
        if body.startswith(b"["):
            body = batch_of_calls(body, self._stub_id(post))
            if isinstance(body, Refusal):
                return body
        return read_batch(body, self._max_event_bytes, self._max_request_bytes, self._max_batch_events)

    def _stub_id(self, post: Post) -> str:
        """Whose the calls of a stub are: the snippet's cookie where it comes along, else an id of the day."""
        found = _COOKIE.search(post.headers.get(b"cookie", b""))
        if found is not None:
            return found[1].decode()
        day, agent = self._now_ms() // DAY_MS, post.headers.get(b"user-agent", b"")
        seen = b"%d\0%s\0%s" % (day, post.ip.encode(), agent)
        return "stub-" + blake2b(seen, digest_size=12, key=self._salt).hexdigest()

    async def _read_body(self, receive: Receive) -> bytes | Refusal:
        """The whole body, at most max_request_bytes of it. tracker/http_protocol.py has the deadline. Raises Gone."""
        body = self.new_body()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            if not body.add(message.get("body", b"")):
                break
            more = message.get("more_body", False)
        return body.whole()

    def _open_key(self, post: Post, content: bytes | Batch | Refusal, wire: Wire | Refusal) -> Owner | Refusal:
        """The owner of a key that no header holds."""
        if isinstance(content, Refusal):
            found = None
        elif isinstance(content, Batch):
            found = content.around.write_key
        else:
            found = text_of(wire.write_key) if isinstance(wire, Wire) else read_key(content)
        return self.keys.in_open(found, post.query)


class Awaited(Post):
    """One whose answer is waited for: of the ASGI door, and of pixels (tracker/compat.py)."""

    __slots__ = ("answered",)

    def __init__(self, route: Route, headers: dict[bytes, bytes], ip: str, query: bytes) -> None:
        super().__init__(route, headers, ip, query)
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answer(self, answer: Answer) -> None:
        if not self.answered.done():  # cancelled at the end of the process
            self.answered.set_result(answer)


def _answer(post: Post, answer: Answer) -> None:
    metrics.answered(post.route.metric, post.method, answer.status, time.perf_counter() - post.started_s)
    try:
        post.answer(answer)
    except Exception:  # one client's connection must not keep the others from their answers
        log.exception("%s could not be answered", post.route.metric)


def _not_taken(error: BaseException) -> Refusal:
    if isinstance(error, SpoolFull):
        return refuse(SPOOL_FULL, str(error))
    return refuse(OVERLOADED if isinstance(error, Full) else KAFKA_UNAVAILABLE, str(error))


def _count(tally: Tally) -> None:
    """Count what Kafka has acked: once a type, not once an event."""
    total = 0
    for kind, events in tally.types.items():
        metrics.ACCEPTED[tally.source, kind].inc(events)
        total += events
    if total:
        metrics.site_accepted(tally.site, total)
    if tally.clamped:
        metrics.CLAMPED.inc(tally.clamped)
    if tally.anonymous:
        metrics.ANONYMOUS.inc(tally.anonymous)
    if tally.skew_ms is not None:  # one clock a request
        metrics.SKEW_SECONDS.observe(abs(tally.skew_ms) / 1000)
    for reason in tally.dead:
        metrics.REJECTED[reason].inc()
        metrics.DEAD_LETTERS[reason].inc()
    for reason in tally.dropped:
        metrics.REJECTED[reason].inc()


def _browser(headers: dict[bytes, bytes]) -> str:
    """The visitor's user agent, or ''. Every browser's begins so; of a server's library it would tell the library."""
    agent = headers.get(b"user-agent")
    return agent.decode("latin-1") if agent is not None and agent.startswith(b"Mozilla/") else ""


def _result(draft: Draft, refusal: Refusal | None, repeat: bool) -> Result:
    if refusal is not None:
        return Result(draft.wire.message_id, "rejected", refusal.rejection.name, refusal.detail or None)
    return Result(draft.wire.message_id, "duplicate" if repeat else "ok")
