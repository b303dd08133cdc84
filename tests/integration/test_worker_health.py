"""Workers that hang, stand still, meet only poison, or must stop while Redis or Kafka are away: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from redis.asyncio import Redis

from tests.harness import Proxy, Stack, eventually
from tests.integration.test_worker import counters, equals, track, worker_metric
from tracker.cli import topics
from tracker.contract.codec import partition_of
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.embedded.process import Child, free_port

pytestmark = pytest.mark.integration

WORKER = """
import asyncio, time
from stream import signals_hop
from stream.worker import run
from tracker.contract.loading import (load)

apply = signals_hop.SignalsHop._apply

async def sabotaged(self, records, decoded, due, *args, **kwargs):
    if any(not isinstance(item, int) for _, item in decoded.items):
        {what}
    return await apply(self, records, decoded, due, *args, **kwargs)

signals_hop.SignalsHop._apply = sabotaged
raise SystemExit(run(load()))
"""


def sabotaged(stack: Stack, what: str, **settings: Any) -> Child:
    """A worker that does `what` at the first event of hop 2, instead of the stack's own."""
    stack.worker.stop()
    env = stack.env | {f"TRACKER_{name.upper()}": str(value) for name, value in settings.items()}
    code = WORKER.replace("{what}", what)
    child = Child("sabotaged", [sys.executable, "-c", code], stack.folder / "sabotaged.log", env=env, cwd=stack.folder)
    stack.others.append(child)
    return child.start()


async def ended(child: Child, within_s: float) -> int:
    await eventually(lambda: not child.running, within_s)
    assert child.process is not None
    return child.process.returncode


@pytest.mark.parametrize(
    ("what", "settings", "reason", "frame"),
    [
        ("time.sleep(1000)", {"hang_s": 3}, "the main loop hangs for 3 s (setting hang_s)", "in sabotaged"),
        (
            "await asyncio.Event().wait()",
            {"stuck_s": 10},
            "tracker.profile-events.v1[0] has work, but no progress for 10 s (setting stuck_s)",
            "in sabotaged",
        ),
    ],
    ids=["the main loop", "a lane"],
)
async def test_a_worker_that_hangs_ends_with_its_stacks_and_the_next_goes_on(
    own_stack: Callable[..., Stack], what: str, settings: dict[str, Any], reason: str, frame: str
) -> None:
    stack = own_stack(partitions=1)
    site = stack.site()
    child = sabotaged(stack, what, **settings)
    await stack.send(site, track("Product Viewed", 1, who="a1"))
    assert await ended(child, 45) == 70
    log = (stack.folder / "sabotaged.log").read_text("utf-8")
    assert f"CRITICAL {reason}; the worker ends, its stacks follow" in log
    assert frame in log[log.index("stacks follow") :]
    stack.worker.start()
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 1}), 60)


async def test_a_worker_that_was_frozen_is_not_taken_for_one_that_hangs(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(partitions=1, hang_s=3, stuck_s=10, session_timeout_s=6)
    site = stack.site()
    os.kill(stack.worker.pid, signal.SIGSTOP)
    await stack.send(site, track("Product Viewed", 1, who="a1"))
    await asyncio.sleep(10)
    os.kill(stack.worker.pid, signal.SIGCONT)
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 1}), 60)
    await asyncio.sleep(5)
    assert stack.worker.running, stack.worker.reason()


async def test_a_worker_that_its_group_does_not_take_ends_and_says_why(stack: Stack) -> None:
    """Its client stops all that it does for the group then, without a word; the worker would wait for ever."""
    more = {"session_timeout_s": 1, "group": "of-another", "worker_id": "refused", "worker_port": free_port()}
    child = stack.command("refused", "worker", **more).start()
    stack.others.append(child)
    assert await ended(child, 30) == 70
    log = (stack.folder / "refused.log").read_text("utf-8")
    assert "Kafka does not let this worker be in its group of-another" in log
    assert "session_timeout_s (1 s) must be within the broker's group.min.session.timeout.ms" in log
    assert "Traceback" not in log


def readyz(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


async def test_a_redis_without_memory_is_named_and_what_came_meanwhile_counts_once(
    own_stack: Callable[..., Stack],
) -> None:
    stack = own_stack(partitions=2, stuck_s=10)
    site = stack.site()
    await stack.send(site, *(track("Product Viewed", n, who=f"a{n}") for n in range(20)))
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 20}), 60)
    redis = Redis.from_url(stack.settings.redis)
    try:
        await redis.config_set("maxmemory", 1)
        await stack.send(site, *(track("Product Viewed", n, who=f"a{n}") for n in range(15, 60)))
        wanted = (
            503,
            '{"status": "not ready", "reason": "Redis is out of memory (its maxmemory): raise it, or make room"}',
        )
        await eventually(lambda: readyz(stack.worker_http) == wanted, 20)
        await asyncio.sleep(12)  # longer than stuck_s
        assert stack.worker.running, stack.worker.reason()
        assert worker_metric(stack, "stream_redis_refusals_total") > 0
    finally:
        await redis.config_set("maxmemory", 0)
        await redis.aclose()
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 60}), 30)
    await eventually(lambda: readyz(stack.worker_http)[0] == 200, 20)
    log = stack.worker.log.read_text("utf-8")
    assert "Redis is out of memory" in log
    assert "stacks follow" not in log


async def test_a_head_that_the_log_no_longer_reaches_ends_the_worker_with_what_to_do(
    own_stack: Callable[..., Stack],
) -> None:
    """Behind retention, or beyond the end of a topic that was made anew: to go on elsewhere would lose or double."""
    stack = own_stack(partitions=1)
    site = stack.site()
    await stack.send(site, track("Product Viewed", 1, who="a1"))
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 1}))
    await asyncio.to_thread(stack.worker.stop)
    await stack.send(site, track("Product Viewed", 2, who="a1"))
    async with topics.admin(stack.settings.kafka) as client:
        await client.delete_records({TopicPartition(EVENTS, 0): RecordsToDelete(2)})

    async def refused() -> None:
        stack.worker.log.write_bytes(b"")
        stack.worker.start()
        assert await ended(stack.worker, 40) == 70
        (line,) = [x for x in stack.worker.log.read_text("utf-8").splitlines() if "no longer has the records" in x]
        assert "retention passed, or a topic was recreated (then empty Redis, too)" in line
        assert EVENTS in line

    await refused()
    async with Redis.from_url(stack.settings.redis) as redis:
        await redis.hset("{e0}:head", "next", 1000)
    await refused()
    assert await counters(stack, site) == {"Product Viewed": 1}


async def owned(url: str) -> int:
    """How many partitions the worker has claimed."""

    def read() -> str:
        with urllib.request.urlopen(url + "/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    lines = (await asyncio.to_thread(read)).splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("stream_partitions_owned{")))


async def test_a_worker_that_alone_is_cut_off_from_redis_leaves_its_partitions_to_the_others(
    own_stack: Callable[..., Stack],
) -> None:
    stack = own_stack(partitions=4, session_timeout_s=6, cut_off_s=5)
    site = stack.site()
    proxy = Proxy(urlsplit(stack.settings.redis).port or 0)
    await proxy.open()
    try:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        redis = f"redis://127.0.0.1:{proxy.port}/0"
        other = await asyncio.to_thread(lambda: stack.add_worker("other", redis=redis, worker_port=port))

        async def shared() -> bool:
            return await owned(url) == await owned(stack.worker_http) == 4

        async def left() -> bool:
            return (await owned(url), await owned(stack.worker_http)) == (0, 8)

        await eventually(shared)
        await proxy.shut()
        await stack.send(site, *(track("Product Viewed", n, who=f"a{n}") for n in range(40)))
        await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 40}))
        await eventually(left)
        assert await asyncio.to_thread(readyz, url) == (
            503,
            '{"status": "not ready", "reason": "Redis does not answer"}',
        )
        assert other.running, other.reason()
        log = other.log.read_text("utf-8")
        assert log.count("Redis has not answered for 5 s (setting cut_off_s): leaving the group until it does") == 1
        assert "stacks follow" not in log

        await proxy.open()
        await eventually(shared)
        await stack.send(site, *(track("Product Viewed", 50 + n, who=f"a{n}") for n in range(40)))
        await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 80}))
    finally:
        await proxy.shut()


@pytest.mark.parametrize("away", ["redis", "kafka"])
async def test_an_outage_ends_no_worker_and_a_stop_during_it_keeps_its_deadline(
    own_stack: Callable[..., Stack], away: str
) -> None:
    stack = own_stack(partitions=2, stuck_s=10, cut_off_s=5, drain_s=4, produce_timeout_s=2)
    os.kill(stack.servers.children[away].pid, signal.SIGSTOP)  # Connections stay open, nothing answers.
    try:
        await stack.send(stack.sites[0], track("Product Viewed", 1, who="a1"))  # Without Kafka it is in the spool.
        await asyncio.sleep(18)
        assert stack.worker.running, stack.worker.reason()
        if away == "redis":
            assert await asyncio.to_thread(readyz, stack.worker_http) == (
                503,
                '{"status": "not ready", "reason": "Redis does not answer"}',
            )
            assert "leaving the group" in stack.worker.log.read_text("utf-8")
        began = time.monotonic()
        code = await asyncio.to_thread(stack.worker.stop, 20)
        assert time.monotonic() - began < 4 + 2
        assert code == 0, stack.worker.log.read_text("utf-8")[-3000:]
        assert "stacks follow" not in stack.worker.log.read_text("utf-8")
    finally:
        os.kill(stack.servers.children[away].pid, signal.SIGCONT)


async def test_a_log_of_nothing_but_poison_stops_the_worker_and_nothing_of_it_is_in_the_dead_letters(
    own_stack: Callable[..., Stack],
) -> None:
    stack = own_stack(partitions=2, poison_run=50)
    site = stack.site()
    partition = partition_of(b"a1", 2)
    stack.worker.stop()
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        for n in range(60):
            await producer.send(EVENTS, f"another format {n}".encode(), partition=partition)
        await producer.flush()
    await stack.send(site, track("Product Viewed", 1, who="a1"))
    stack.worker.start()
    assert await ended(stack.worker, 40) == 70
    lines = [line for line in stack.worker.log.read_text("utf-8").splitlines() if "can't be used" in line]
    assert len(lines) == 1
    assert f"{EVENTS}[{partition}]: 50 records in a row can't be used, from offset 0: not_an_event" in lines[0]
    assert await stack.consume(DEAD_LETTERS, 1, timeout_s=3) == []

    stack.worker.env = {**(stack.worker.env or {}), "TRACKER_POISON_RUN": "0", "TRACKER_POISON_RATIO": "0"}
    stack.worker.start()
    await eventually(lambda: equals(counters(stack, site), {"Product Viewed": 1}))
    assert len(await stack.consume(DEAD_LETTERS, 61, timeout_s=6)) == 60
    assert worker_metric(stack, "stream_dead_letters_total") == 60
