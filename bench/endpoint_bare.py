"""The floor of the endpoint's benchmark: the same server, an app that says yes to everything, no Kafka."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from tracker.http_protocol import Protocol

BODY = b'{"success":true}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), http=Protocol, loop="uvloop", lifespan="off", ws="none", access_log=False,
        server_header=False, log_level="warning",
    )  # fmt: skip
