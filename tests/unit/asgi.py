"""An ASGI application asked without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI


def answer(
    app: FastAPI, method: str, path: str, headers: dict[str, str], query: str = "", peer: str = "10.0.0.9"
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the answer to a request without a body."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": (peer, 1),
        "scheme": "http", "server": ("127.0.0.1", 8080), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(part.get("body", b"") for part in sent)
