"""The hot path without a server."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from tracker import http_in
from tracker.contract.loading import load
from tracker.durable import Durable
from tracker.limits import Guard

SCOPE = {"type": "http", "method": "POST", "path": "/v1/batch", "query_string": b"", "headers": []}


def app() -> http_in.HttpIn:
    settings = load({}, demo=True, kafka="127.0.0.1:1", spool_dir="")
    return http_in.HttpIn(settings, Durable(settings), Guard(settings))


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
