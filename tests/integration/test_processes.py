"""`tracker serve --processes N`: several endpoints on one port, and the parent that keeps them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.endpoint import SHOP, Http, endpoint, metric, port_of
from tests.harness import Stack, eventually
from tracker.cli.up import ready
from tracker.contract.topics import EVENTS
from tracker.embedded.process import Child, PartError, wait_until

pytestmark = pytest.mark.integration

N = 3


class Several:
    """An endpoint of several processes, and what its log tells of them."""

    def __init__(self, child: Child) -> None:
        self.child, self.port = child, port_of(child)

    def pids(self) -> list[int]:
        """By index, the latest of each."""
        found = re.findall(r"process (\d+) started \(pid (\d+)\)", self.child.log.read_text("utf-8"))
        return [int(pid) for _, pid in sorted(dict(found).items())]

    def metrics_ports(self) -> list[int]:
        found = re.findall(r"process (\d+) started .* port (\d+)", self.child.log.read_text("utf-8"))
        return [int(port) for _, port in sorted(dict(found).items())]

    def send(self, user: str) -> int:
        with Http(self.port) as client:
            return client.post("/v1/track", {"userId": user, "event": "A"}, X_Write_Key=SHOP.write_key)[0]


@contextmanager
def start(stack: Stack, folder: Path) -> Iterator[Several]:
    kafka, redis = stack.settings.kafka, stack.settings.redis
    with endpoint(folder, kafka, redis, processes=N, metrics_port=0, drain_s=6, linger_ms=50) as child:
        found = Several(child)
        wait_until(lambda: len(found.pids()) == N, [child], 10, "the processes")
        for port in found.metrics_ports():
            wait_until(partial(ready, "127.0.0.1", port), [child], 30, "a process")
        try:
            yield found
        finally:
            child.stop()
            for pid in filter(running, found.pids()):  # a test has failed: they should have ended with their parent
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def several(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    with start(stack, tmp_path_factory.mktemp("several")) as found:
        yield found


@pytest.fixture
def ending(stack: Stack, tmp_path: Path) -> Iterator[Several]:
    with start(stack, tmp_path) as found:
        yield found


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_all_processes_serve_and_every_event_is_in_kafka_once(several: Several, stack: Stack) -> None:
    users = [f"several-{time.time_ns()}-{i}" for i in range(60)]
    assert await asyncio.gather(*(asyncio.to_thread(several.send, user) for user in users)) == [200] * 60
    counts = [metric(port, "tracker_events_accepted_total", type="track") for port in several.metrics_ports()]
    assert sum(counts) == 60
    assert min(counts) > 0, counts
    events = await stack.consume(EVENTS, 61, site="shop", match=lambda v: v.get("userId") in users, timeout_s=3)
    assert sorted(event["userId"] for event in events) == sorted(users)


def test_each_process_has_its_metrics_at_its_own_port(several: Several) -> None:
    with Http(several.port) as client:
        status, _, answer = client.request("GET", "/metrics")
    assert (status, answer["code"]) == (404, "metrics_by_process")
    first, *others = several.metrics_ports()
    with Http(first) as client:  # its own port leads to this one for sure
        assert client.post("/v1/page", {"userId": "u"}, X_Write_Key=SHOP.write_key)[0] == 200
    assert metric(first, "tracker_events_accepted_total", type="page") == 1
    assert [metric(port, "tracker_events_accepted_total", type="page") for port in others] == [0] * (N - 1)


async def test_a_killed_process_comes_back_and_nobody_is_refused_meanwhile(several: Several) -> None:
    before = several.pids()
    os.kill(before[1], signal.SIGKILL)
    # New connections, also those that the kernel deals to the dead one's socket.
    answers = await asyncio.gather(*(asyncio.to_thread(several.send, f"u{i}") for i in range(40)))
    assert answers == [200] * 40
    after = await eventually(lambda: pids if (pids := several.pids())[1] != before[1] else None)
    assert after is not None
    assert [after[0], after[2]] == [before[0], before[2]]
    assert "process 1 was ended by SIGKILL" in several.child.log.read_text("utf-8")
    await eventually(lambda: ready("127.0.0.1", several.metrics_ports()[1]))


async def test_sigterm_ends_all_of_them_and_loses_nothing_in_flight(ending: Several, stack: Stack) -> None:
    users = [f"ending-{time.time_ns()}-{i}" for i in range(30)]
    sending = [asyncio.create_task(asyncio.to_thread(ending.send, user)) for user in users]
    await asyncio.sleep(0.03)
    ending.child.terminate()
    assert await asyncio.gather(*sending) == [200] * 30
    assert await asyncio.to_thread(ending.child.stop) == 0
    assert [pid for pid in ending.pids() if running(pid)] == []
    events = await stack.consume(EVENTS, 30, site="shop", match=lambda v: v.get("userId") in users, timeout_s=5)
    assert sorted(event["userId"] for event in events) == sorted(users)


async def test_without_their_parent_they_end_in_order(ending: Several) -> None:
    pids = ending.pids()
    sending = asyncio.create_task(asyncio.to_thread(ending.send, "orphan"))
    await asyncio.sleep(0.02)
    ending.child.kill()
    assert await sending == 200
    await eventually(lambda: not any(running(pid) for pid in pids))


def test_a_port_that_another_tracker_has_is_not_shared_with_it(several: Several, stack: Stack, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with endpoint(other, stack.settings.kafka, http_port=several.port, processes=2, metrics_port=0) as child:
        assert child.process is not None
        assert child.process.wait(15) == 1
    log = (other / "endpoint.log").read_text("utf-8")
    assert "address already in use" in log
    assert "Traceback" not in log


def test_a_process_that_cannot_live_ends_all_with_its_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(PartError, match="endpoint ended with code 1"),
        endpoint(tmp_path, "127.0.0.1:1", "no-redis://", processes=2, metrics_port=0),
    ):
        pytest.fail("it lives")
    said = (tmp_path / "endpoint.log").read_text("utf-8")  # the other process may have the last word
    assert re.search(r"process \d ended with code 1, 5 times within 10 s of its start", said)
    assert "Redis URL" in said
