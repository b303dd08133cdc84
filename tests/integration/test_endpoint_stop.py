"""The endpoint's end, and a start that can't be."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.endpoint import (
    SHOP,
    Http,
    alive,
    endpoint,
    port_of,
)
from tests.harness import Stack, eventually
from tracker.cli.up import ready
from tracker.contract.topics import EVENTS

pytestmark = pytest.mark.integration


async def test_sigterm_turns_readiness_off_first_and_loses_nothing_in_flight(stack: Stack, tmp_path: Path) -> None:
    # A long linger: the requests are still waiting for their batch when the signal comes.
    with endpoint(tmp_path, stack.settings.kafka, linger_ms=900, drain_s=10) as child:
        port = port_of(child)
        await eventually(lambda: ready("127.0.0.1", port))
        users = [f"drain-{time.time_ns()}-{i}" for i in range(10)]

        def send(user: str) -> int:
            with Http(port) as client:
                return client.post("/v1/track", {"userId": user, "event": "A"}, X_Write_Key=SHOP.write_key)[0]

        sending = [asyncio.create_task(asyncio.to_thread(send, user)) for user in users]
        await asyncio.sleep(0.3)
        child.terminate()
        await eventually(lambda: not ready("127.0.0.1", port), 2, 0.05)
        assert alive(port)  # connections are still taken: the load balancer is told, not hit
        assert await asyncio.gather(*sending) == [200] * 10
        assert await asyncio.to_thread(child.stop) == 0
    events = await stack.consume(EVENTS, 10, site="shop", match=lambda value: value.get("userId") in users)
    assert sorted(event["userId"] for event in events) == sorted(users)


def test_a_hung_body_does_not_hold_the_exit(stack: Stack, tmp_path: Path) -> None:
    with (
        endpoint(tmp_path, stack.settings.kafka, drain_s=2) as child,
        socket.create_connection(("127.0.0.1", port_of(child))) as sock,
    ):
        sock.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        started_s = time.monotonic()
        child.terminate()
        assert child.stop() == 0
        assert time.monotonic() - started_s < 5


def test_a_taken_port_is_one_line_and_code_1(shop: int, stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka, http_port=shop) as child:  # what lives there is the other one
        assert child.process is not None
        assert child.process.wait(15) == 1
    log = (tmp_path / "endpoint.log").read_text("utf-8")
    assert "address already in use" in log
    assert "Traceback" not in log
