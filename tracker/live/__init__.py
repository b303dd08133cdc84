"""The demo's pages: the shop, and a stream of what becomes of a visitor's own events (server-sent events).

    GET /demo/                       the shop (tracker/static/demo)
    GET /demo/live?anonymousId=ID    text/event-stream

Messages of the stream, `data` is JSON:

    hello     {now_ms, cart_idle_s, checkout_idle_s, payment_idle_s, cart_repeat_s}
    status    {stream: "live" | "waiting"}   waiting: Kafka or the workers say nothing (no clock record for a while)
    event     {id, name, type, channel, ts, latency_ms}     latency: endpoint -> Kafka -> identity -> Kafka -> here
    counters  {window, groups: [{key, count}], complete_until}      the site's events, when they have changed
    trigger   {id, kind, ts, data}           what automation systems get; `data` as in contract/triggers.py

Only the demo site is ever shown, and of it to each listener what carries its anonymousId (a secret of its browser),
and the triggers of the profile which that id belongs to. An endpoint reads Kafka for this only while someone listens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator
from hashlib import blake2b, sha256
from html import escape
from pathlib import Path
from re import DOTALL, findall
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tracker.contract import topics
from tracker.contract.codec import message_hash
from tracker.contract.events import CLOCK_PREFIX, MAX_ID_CHARS, ProfileEvent, decode_profile_event, event_label
from tracker.contract.keys import identifier_key
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.contract.triggers import TRIGGER_KINDS, decode_trigger
from tracker.counters import read_counters
from tracker.snippet import build_path

log = logging.getLogger(__name__)

SHOP: Final = Path(__file__).parents[1] / "static" / "demo"
MAX_LISTENERS: Final = 100
MAX_WAITING: Final = 200
"""Messages that wait for a slow listener; the oldest are dropped."""
MAX_PROFILES: Final = 16
"""Profiles that one listener's id may have belonged to (identities are merged)."""
RECENT: Final = 2000
"""Messages of the site kept for listeners that connect, or come back, after them."""
HEARTBEAT_S: Final = 15.0
LINGER_S: Final = 30.0
"""How long Kafka is read on after the last listener has left."""
LOOK_BACK_S: Final = 5.0
"""How far before its first listener the reading starts: a page sends its first events before it listens."""
SILENCE_S: Final = 5.0
"""Clock records come each second; after so long without one the stream is shown as waiting."""
COUNTERS_S: Final = 2.0
COUNTER_GROUPS: Final = 12
RETRY_S: Final = 2.0

_SITE_MARK: Final = b'"site":"%s"' % DEMO_SITE.encode()
_KIND_OF_TOPIC: Final = {kind.topic: kind.name for kind in TRIGGER_KINDS}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def mount(app: FastAPI, settings: Settings, redis: Redis) -> None:
    """Add the demo's routes to `app`. `app.state.live.close()` ends the streams: an endpoint that drains calls it."""
    live = Live(settings, redis)
    app.state.live = live
    page = _index(settings)

    async def index(request: Request) -> Response:
        if request.headers.get("if-none-match") == page.headers["etag"]:
            return Response(status_code=304, headers={"ETag": page.headers["etag"], "Cache-Control": "no-cache"})
        return page

    async def to_index(_: Request) -> Response:
        return RedirectResponse("/demo/")

    app.router.add_route("/demo", to_index, methods=["GET"], include_in_schema=False)
    app.router.add_route("/demo/", index, methods=["GET"], include_in_schema=False)
    app.router.add_route("/demo/live", live.listen, methods=["GET"], include_in_schema=False)
    app.mount("/demo", _Files(directory=SHOP))


def _index(settings: Settings) -> Response:
    """The shop's page with this installation's snippet, and a policy that lets no other script in."""
    html = (SHOP / "index.html").read_text("utf-8")
    html = html.replace('src="/t.full.js"', f'src="{escape(build_path(settings.snippet_path, ".full"))}"')
    html = html.replace("demo-write-key", escape(settings.sites[DEMO_SITE].write_key))
    hashes = " ".join(
        f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
        for script in findall(r"<script>(.*?)</script>", html, DOTALL)
    )
    body = html.encode()
    return Response(
        body,
        media_type="text/html",
        headers={
            "ETag": f'"{blake2b(body, digest_size=16).hexdigest()}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": f"default-src 'self'; script-src 'self' {hashes}; img-src 'self' data:; "
            "object-src 'none'; base-uri 'none'; frame-ancestors 'self'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "strict-origin-when-cross-origin",
        },
    )


class _Files(StaticFiles):
    """Starlette's, with ETag; browsers ask each time whether a file has changed."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


class Listener:
    """One open stream. What waits to be sent is bounded: a slow listener loses the oldest, nobody else notices."""

    def __init__(self, anonymous_id: str) -> None:
        self.anonymous_id = anonymous_id
        self.profiles: set[str] = set()
        self.waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self.wake = asyncio.Event()

    def put(self, message: bytes) -> None:
        self.waiting.append(message)
        self.wake.set()


class Recent(msgspec.Struct, frozen=True):
    """A message of the site: an event (with its sender's id) or a trigger (anonymous_id None)."""

    id: str
    anonymous_id: str | None
    profile_id: str
    message: bytes


def encode(kind: str, data: Any, id: str | None = None) -> bytes:
    """A server-sent event. `id` must be free of line breaks (ids of clients are hashed)."""
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {kind}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


class Live:
    """Reads the demo site's records from Kafka, once for all listeners, and hands each what is its own."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._listeners: set[Listener] = set()
        self._recent: deque[Recent] = deque(maxlen=RECENT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False
        self._closing = False
        self._left_at = 0.0
        self._started_ms = 0
        self._next: dict[TopicPartition, int] = {}
        """Where the reading stands, for a consumer that follows a failed one."""
        self._heard_at: float | None = None
        self._status = "waiting"
        self._counters = b""

    async def listen(self, request: Request) -> Response:
        anonymous_id = request.query_params.get("anonymousId", "")
        if not 0 < len(anonymous_id) <= MAX_ID_CHARS:
            return _refuse(
                400,
                "anonymous_id_missing",
                "the query has no usable anonymousId",
                "tracker.user().anonymousId() gives it",
            )
        if len(self._listeners) >= MAX_LISTENERS or self._closing:
            return _refuse(
                503, "too_many_listeners", f"{MAX_LISTENERS} listeners are connected", "try again in a while"
            )
        listener = Listener(anonymous_id)
        try:
            key = identifier_key(DEMO_SITE, "anonymous_id", anonymous_id)
            if (profile_id := await self._redis.get(key)) is not None:
                listener.profiles.add(profile_id.decode() if isinstance(profile_id, bytes) else profile_id)
        except RedisError as e:
            log.warning("live: the profile of a listener can't be read: %s", e)  # its next event tells it
        stream = self._stream(listener, request.headers.get("last-event-id", ""))
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    def close(self) -> None:
        """End all streams and stop reading; new listeners are refused from here on."""
        self._closing = True
        for listener in self._listeners:
            listener.wake.set()
        for task in self._tasks:
            task.cancel()

    async def _stream(self, listener: Listener, last_id: str) -> AsyncIterator[bytes]:
        s = self._settings
        hello = {
            "now_ms": _now_ms(),
            "cart_idle_s": s.cart_idle_s,
            "checkout_idle_s": s.checkout_idle_s,
            "payment_idle_s": s.payment_idle_s,
            "cart_repeat_s": s.cart_repeat_s,
        }
        # Without an await between the replay and the registration nothing is missed or told twice.
        replay = self._replay(listener, last_id)
        self._listeners.add(listener)
        self._start()
        try:
            yield (
                b"retry: 2000\n\n"
                + encode("hello", hello)
                + encode("status", {"stream": self._status})
                + self._counters
                + replay
            )
            while not self._closing:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await listener.wake.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                listener.wake.clear()
                while listener.waiting:
                    yield listener.waiting.popleft()
        finally:
            self._listeners.discard(listener)
            self._left_at = time.monotonic()

    def _replay(self, listener: Listener, last_id: str) -> bytes:
        """The recent messages that are `listener`'s, after `last_id` where that is among them."""
        own = [r for r in self._recent if self._concerns(r, listener)]
        ids = [r.id for r in own]
        start = ids.index(last_id) + 1 if last_id in ids else 0
        return b"".join(r.message for r in own[start:][-MAX_WAITING:])

    @staticmethod
    def _concerns(item: Recent, listener: Listener) -> bool:
        if item.anonymous_id is None:
            return item.profile_id in listener.profiles
        if item.anonymous_id != listener.anonymous_id:
            return False
        if len(listener.profiles) < MAX_PROFILES:
            listener.profiles.add(item.profile_id)
        return True

    # -- reading, while someone listens

    def _start(self) -> None:
        if not self._reading:
            self._reading = True
            task = asyncio.create_task(self._read(), name="live")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("live: the reading ended", exc_info=error)

    def _wanted(self) -> bool:
        return bool(self._listeners) or time.monotonic() - self._left_at < LINGER_S

    async def _read(self) -> None:
        counters = asyncio.create_task(self._read_counters(), name="live counters")
        try:
            while self._wanted():
                try:
                    await self._consume()
                except (KafkaError, OSError) as e:
                    log.warning("live: Kafka can't be read: %s", e)
                    self._say_status()
                    await asyncio.sleep(RETRY_S)
        finally:
            counters.cancel()
            # A listener that comes from here on starts a new reading.
            self._reading = False
            self._heard_at, self._status, self._counters = None, "waiting", b""
            self._recent.clear()
            self._next.clear()

    async def _consume(self) -> None:
        # No group: every endpoint process reads all partitions, and commits nothing.
        consumer = AIOKafkaConsumer(
            topics.PROFILE_EVENTS,
            *_KIND_OF_TOPIC,
            bootstrap_servers=self._settings.kafka,
            client_id="tracker-live",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_max_wait_ms=100,
        )
        try:
            await consumer.start()
            self._started_ms = _now_ms()
            since_ms = self._started_ms - int(LOOK_BACK_S * 1000)
            new = [partition for partition in consumer.assignment() if partition not in self._next]
            if new:
                ends = await consumer.end_offsets(new)
                for partition, found in (await consumer.offsets_for_times(dict.fromkeys(new, since_ms))).items():
                    consumer.seek(partition, ends[partition] if found is None else found.offset)
            for partition, offset in self._next.items():
                consumer.seek(partition, offset)
            while self._wanted():
                for partition, records in (await consumer.getmany(timeout_ms=500, max_records=5000)).items():
                    for record in records:
                        self._take(record)
                    self._next[partition] = records[-1].offset + 1
                    await asyncio.sleep(0)  # the endpoint's own work goes on between partitions
                self._say_status()
        finally:
            await consumer.stop()

    def _take(self, record: ConsumerRecord[bytes | None, bytes | None]) -> None:
        value = record.value or b""
        if value.startswith(CLOCK_PREFIX):
            self._heard_at = time.monotonic()
            return
        if _SITE_MARK not in value:  # a cheap test first: most records are other sites'
            return
        try:
            kind = _KIND_OF_TOPIC.get(record.topic)
            if kind is not None:
                item = _from_trigger(kind, value)
            else:
                backlog = record.timestamp < self._started_ms
                item = _from_event(value, record.timestamp if backlog else _now_ms())
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # a newer version's; the worker's dead letters tell of it if it is broken
        if item is None:
            return
        self._recent.append(item)
        for listener in self._listeners:
            if self._concerns(item, listener):
                listener.put(item.message)

    def _say_status(self) -> None:
        heard = self._heard_at is not None and time.monotonic() - self._heard_at < SILENCE_S
        status = "live" if heard else "waiting"
        if status != self._status:
            self._status = status
            self._tell_all(encode("status", {"stream": status}))

    async def _read_counters(self) -> None:
        while True:
            try:
                counters = await read_counters(self._redis, self._settings, DEMO_SITE, "event", "1h", _now_ms())
                told = encode("counters", {**counters, "groups": counters["groups"][:COUNTER_GROUPS]})
                if told != self._counters:
                    self._counters = told
                    self._tell_all(told)
            except RedisError as e:
                log.warning("live: counters can't be read: %s", e)
            await asyncio.sleep(COUNTERS_S)

    def _tell_all(self, message: bytes) -> None:
        for listener in self._listeners:
            listener.put(message)


def _from_event(value: bytes, seen_ms: int) -> Recent | None:
    event: ProfileEvent = decode_profile_event(value)
    if event.site != DEMO_SITE or event.anonymous_id is None or event.hops:  # sent on: it was told before
        return None
    id = f"e{message_hash(event.site, event.message_id):016x}"
    data = {
        "id": id,
        "name": event_label(event),
        "type": event.type,
        "channel": event.channel,
        "ts": event.timestamp_ms,
        "latency_ms": max(0, seen_ms - event.received_at_ms),
    }
    return Recent(id, event.anonymous_id, event.profile_id, encode("event", data, id))


def _from_trigger(kind: str, value: bytes) -> Recent | None:
    trigger = decode_trigger(value)
    if trigger.site != DEMO_SITE:
        return None
    id = f"t{message_hash(trigger.site, trigger.id):016x}"
    data = {"id": trigger.id, "kind": kind, "type": trigger.type, "ts": trigger.time, "data": trigger.data}
    return Recent(id, None, trigger.subject, encode("trigger", data, id))


def _refuse(status: int, code: str, message: str, hint: str) -> Response:
    body = msgspec.json.encode({"success": False, "code": code, "message": message, "hint": hint})
    headers = {"Retry-After": "5"} if status == 503 else {}
    return Response(body, status, media_type="application/json", headers=headers)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
