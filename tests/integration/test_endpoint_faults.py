"""The endpoint while Kafka or Redis is away, frozen or restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.endpoint import (
    SHOP,
    Http,
    create_topics,
    endpoint,
    message_ids,
    metric,
    port_of,
)
from tests.harness import PARTITIONS, Servers, Stack, eventually
from tracker.cli.up import ready
from tracker.contract.topics import EVENTS
from tracker.embedded.process import free_port, wait_until

pytestmark = pytest.mark.integration


def test_without_kafka_and_spool_it_lives_but_is_not_ready(tmp_path: Path) -> None:
    with (
        endpoint(tmp_path, f"127.0.0.1:{free_port()}", drain_s=3, spool_dir="") as child,
        Http(port_of(child)) as client,
    ):
        assert client.request("GET", "/livez")[0] == 200
        status, _, answer = client.request("GET", "/readyz")
        assert status == 503
        assert "Kafka" in answer["reason"]
        status, headers, answer = client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)
        assert (status, answer["code"]) == (503, "kafka_unavailable")
        assert int(headers["retry-after"]) > 0
        started_s = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - started_s < 6


def test_without_redis_events_are_taken_and_reading_says_503(stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka) as child, Http(port_of(child)) as client:
        wait_until(lambda: ready("127.0.0.1", port_of(child)), [child], 30, "the endpoint")
        assert client.post("/v1/track", {"userId": "u", "event": "A"}, X_Write_Key=SHOP.write_key)[0] == 200
        for path in ("counters", "profiles/user_id/u"):
            bearer = f"Bearer {SHOP.secret_key}"
            status, headers, answer = client.request("GET", f"/api/v1/sites/shop/{path}", Authorization=bearer)
            assert (status, answer["code"]) == (503, "redis_unavailable")
            assert int(headers["retry-after"]) > 0


def test_topics_with_other_partitions_are_told(stack: Stack, tmp_path: Path) -> None:
    with endpoint(tmp_path, stack.settings.kafka, partitions=PARTITIONS + 1) as child, Http(port_of(child)) as client:
        deadline = time.monotonic() + 20
        while "partitions" not in (reason := client.request("GET", "/readyz")[2].get("reason", "")):
            assert time.monotonic() < deadline, reason
            time.sleep(0.1)
        assert reason == f"topic {EVENTS} has {PARTITIONS} partitions, the setting `partitions` says {PARTITIONS + 1}"


async def test_a_frozen_kafka_means_503_in_time_and_nothing_acked_is_lost(
    own_servers: Callable[[], Servers], tmp_path: Path
) -> None:
    servers = own_servers()
    timeout_s = 3.0
    settings = {"spool_dir": "", "produce_timeout_s": timeout_s, "max_pending_bytes": 1 << 20, "drain_s": 4}
    with endpoint(tmp_path, servers.kafka, servers.redis, **settings) as child:
        port = port_of(child)
        create_topics(servers)
        await eventually(lambda: ready("127.0.0.1", port))
        acked: list[str] = []
        threads = ThreadPoolExecutor(60)  # asyncio.to_thread has no more than a handful

        async def send(message_id: str, size: int = 10) -> tuple[int, float]:
            body = {"userId": message_id, "event": "A", "messageId": message_id, "properties": {"x": "y" * size}}

            def call() -> tuple[int, float]:
                started_s = time.monotonic()
                with Http(port) as client:
                    status = client.post("/v1/track", body, X_Write_Key=SHOP.write_key)[0]
                return status, time.monotonic() - started_s

            status, took_s = await asyncio.get_running_loop().run_in_executor(threads, call)
            if status == 200:
                acked.append(message_id)
            return status, took_s

        async def works() -> bool:
            return (await send(f"warm-{time.time_ns()}"))[0] == 200

        await eventually(works)
        assert [status for status, _ in await asyncio.gather(*(send(f"before-{i}") for i in range(20)))] == [200] * 20
        kafka = servers.children["kafka"]
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(send(f"frozen-{i}") for i in range(20)))
            assert {status for status, _ in answers} == {503}
            assert max(took_s for _, took_s in answers) < timeout_s + 3
            # More than may wait: refused at once.
            flood = await asyncio.gather(*(send(f"flood-{i}", 30_000) for i in range(60)))
            assert {status for status, _ in flood} == {503}
            assert metric(port, "tracker_events_rejected_total", reason="overloaded") > 0
            assert metric(port, "tracker_events_rejected_total", reason="kafka_unavailable") >= 20
            assert metric(port, "tracker_producer_queue_bytes") <= 1 << 20
        finally:
            os.kill(kafka.pid, signal.SIGCONT)

        await eventually(works)
        assert [status for status, _ in await asyncio.gather(*(send(f"after-{i}") for i in range(20)))] == [200] * 20
        threads.shutdown()
        assert child.stop() == 0
        stored = await message_ids(servers.kafka)
        assert set(acked) <= set(stored)
        assert all(stored.count(message_id) == 1 for message_id in acked)
