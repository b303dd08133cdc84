"""What the endpoint is compared with: the least that puts events from HTTP into Kafka and answers after the ack.

    python -m bench.forwarders asgi|asgi-own|fastapi PORT KAFKA

asgi      plain ASGI under uvicorn as it comes (httptools, uvloop): body -> JSON check -> Kafka -> ack. No intake.
asgi-own  the same with the endpoint's producer: what differs from the endpoint is only what stands before Kafka.
fastapi   as `asgi`, as FastAPI routes with models, as its manual teaches.

`asgi` and `fastapi` produce with what aiokafka offers for it (bench/batches.py).
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from msgspec import Raw, Struct
from pydantic import BaseModel

from bench.batches import Batches
from tracker import metrics
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import Settings
from tracker.contract.topics import EVENTS

Out = KafkaOut | Batches

BODY = b'{"success":true}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


class Key(Struct, rename="camel", gc=False):
    anonymous_id: str


class Batch(Struct):
    batch: list[Raw]


_key = msgspec.json.Decoder(Key).decode
_batch = msgspec.json.Decoder(Batch).decode


class Asgi:
    def __init__(self, kafka: Out) -> None:
        self._kafka = kafka

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan_of(self._kafka, receive, send)
            return
        body = b""
        if scope["method"] == "POST":
            while True:
                message = await receive()
                body += message["body"]
                if not message["more_body"]:
                    break
            kafka = self._kafka
            if scope["path"] == "/v1/batch":
                records: dict[bytes, list[tuple[bytes | None, bytes]]] = {}
                for event in _batch(body).batch:
                    key = _key(event).anonymous_id.encode()
                    records.setdefault(key, []).append((key, bytes(event)))
                acks: set[asyncio.Future[None]] = set()
                for key, of_key in records.items():
                    acks |= kafka.extend(EVENTS, kafka.partition_of(EVENTS, key), of_key)
                for ack in acks:
                    await asyncio.shield(ack)
            else:
                await asyncio.shield(kafka.append(EVENTS, _key(body).anonymous_id.encode(), body))
        status = 200 if self._kafka.ready else 503
        await send({"type": "http.response.start", "status": status, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})


async def lifespan_of(kafka: Out, receive: Any, send: Any) -> None:
    await receive()
    await kafka.start({EVENTS: None})
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await kafka.stop(5)
    await send({"type": "lifespan.shutdown.complete"})


class Event(BaseModel):
    messageId: str
    type: str
    event: str
    anonymousId: str
    timestamp: str
    properties: dict[str, Any]
    context: dict[str, Any]


class Events(BaseModel):
    batch: list[Event]


def fastapi(kafka: Out) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await kafka.start({EVENTS: None})
        yield
        await kafka.stop(5)

    app = FastAPI(lifespan=lifespan)

    def put(event: Event) -> asyncio.Future[None]:
        return kafka.append(EVENTS, event.anonymousId.encode(), event.model_dump_json().encode())

    @app.post("/v1/track")
    async def track(event: Event) -> dict[str, bool]:
        await asyncio.shield(put(event))
        return {"success": True}

    @app.post("/v1/batch")
    async def batch(events: Events) -> dict[str, bool]:
        for ack in {put(event) for event in events.batch}:
            await asyncio.shield(ack)
        return {"success": True}

    @app.get("/readyz")
    async def ready() -> Response:
        return Response(status_code=200 if kafka.ready else 503)

    return app


def main() -> None:
    kind, port, bootstrap = sys.argv[1:]
    settings = Settings()
    out = KafkaOut if kind == "asgi-own" else Batches
    kafka = out(
        bootstrap,
        linger_ms=settings.linger_ms,
        linger_max_ms=settings.linger_max_ms,
        max_pending_bytes=settings.max_pending_bytes,
        produce_timeout_s=settings.produce_timeout_s,
        client_id="bench",
        observer=metrics.Producing(),
    )
    app: Any = fastapi(kafka) if kind == "fastapi" else Asgi(kafka)
    gc.set_threshold(20_000, 20, 50)  # as the endpoint's
    uvicorn.run(app, port=int(port), http="httptools", loop="uvloop", ws="none", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
