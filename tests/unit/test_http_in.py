"""The hot path without a server."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from tracker import http_in, metrics
from tracker.contract.producer import KafkaOut
from tracker.contract.settings import load
from tracker.limits import Guard

SCOPE = {"type": "http", "method": "POST", "path": "/v1/batch", "query_string": b"", "headers": []}


def app() -> http_in.HttpIn:
    settings = load({}, demo=True)
    kafka = KafkaOut(
        "127.0.0.1:1", linger_ms=1, max_pending_bytes=1 << 20, produce_timeout_s=1, client_id="test",
        observer=metrics.Producing(),
    )  # fmt: skip
    return http_in.HttpIn(settings, kafka, Guard(settings))


async def call(*parts: dict[str, Any]) -> list[MutableMapping[str, Any]]:
    """What the app sends when these messages arrive, and nothing after them."""
    waiting, sent = list(parts), []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app()(dict(SCOPE), receive, send)
    return sent


async def test_nobody_is_answered_who_hung_up() -> None:
    parts = {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}
    assert await asyncio.wait_for(call(*parts), 5) == []
