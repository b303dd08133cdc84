"""Nothing that was answered with 200 is lost, whatever breaks: counted by messageId, what was acked against what is in
Kafka. `pytest -s` prints the counts and latencies; OUTAGE_S=60 OUTAGE_RATE=2000 makes the outage a long one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.endpoint import Http, create_topics, endpoint, metric, port_of
from tests.faults import Load, counted
from tests.harness import Servers, await_kafka, eventually
from tracker.cli.up import ready

pytestmark = pytest.mark.integration
OUTAGE_S = float(os.environ.get("OUTAGE_S", "6"))
OUTAGE_RATE = int(os.environ.get("OUTAGE_RATE", "1000"))


def state(port: int) -> tuple[int, dict[str, object]]:
    with Http(port) as client:
        status, _, answer = client.request("GET", "/readyz")
    return status, answer


async def drained(port: int, timeout_s: float = 60) -> None:
    """Until all of the spool is in Kafka."""
    await eventually(lambda: state(port) == (200, {"status": "ready"}), timeout_s, 0.2)


async def test_a_broker_that_is_stopped(own_servers: Callable[[], Servers], tmp_path: Path) -> None:
    servers = own_servers()
    create_topics(servers)
    kafka = servers.children["kafka"]
    with endpoint(tmp_path, servers.kafka, servers.redis) as child:
        port = port_of(child)
        await eventually(lambda: ready("127.0.0.1", port), 30)
        async with Load(port, OUTAGE_RATE) as load:
            await asyncio.sleep(1)
            stopped_s = time.monotonic()
            await asyncio.to_thread(kafka.stop)
            await asyncio.sleep(OUTAGE_S)
            status, answer = await asyncio.to_thread(state, port)
            assert (status, answer["status"]) == (200, "spooling")
            kafka.start()
            await asyncio.to_thread(await_kafka, kafka, servers.kafka)
            back_s = time.monotonic()
            await drained(port)
            done_s = time.monotonic()
            await asyncio.sleep(1)
        print(
            "\nbefore:",
            load.latency(0, stopped_s),
            "\naway:  ",
            load.latency(stopped_s, back_s),
            "\nreplay:",
            load.latency(back_s, done_s),
            "\nafter: ",
            load.latency(done_s, 1e12),
        )
        print(done_s - back_s, load.statuses)
        print(await counted(servers.kafka, load))
        assert load.statuses.keys() == {200}
