"""One process a worker_id: a second one ends, one after a kill goes on. Real processes, a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from stream.lease import DEAD_S, Lease
from stream.redis_store import Store
from tests.harness import Stack, eventually
from tests.integration.test_worker_health import owned
from tracker.contract.keys import worker_key
from tracker.embedded.process import Child, free_port

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    store = Store(redis_url)
    await store.start()
    yield store
    await store.stop()


def second(stack: Stack) -> Child:
    """A worker under the name of the stack's, with a port of its own."""
    child = stack.command("second", "worker", worker_port=free_port())
    stack.others.append(child)
    return child.start()


async def test_a_second_worker_under_one_worker_id_ends_with_a_line_and_takes_nothing(stack: Stack) -> None:
    log, n = stack.worker.log, len(stack.worker.log.read_text("utf-8"))
    has = await eventually(lambda: owned(stack.worker_http))
    child = second(stack)
    await eventually(lambda: not child.running, 30)
    assert child.process is not None
    assert child.process.returncode == 1
    (line,) = child.log.read_text("utf-8").splitlines()
    assert line.startswith(
        f"tracker worker: a worker runs under worker_id {stack.settings.worker_id} already "
        f"(process {stack.worker.pid} on "
    )
    assert line.endswith("): give each worker a TRACKER_WORKER_ID of its own")
    assert stack.worker.running
    assert await owned(stack.worker_http) == has > 0
    assert "was not recognized" not in log.read_text("utf-8")[n:]


async def test_a_process_that_hangs_is_replaced_and_hears_of_it_when_it_goes_on(store: Store) -> None:
    """So is one that was killed."""
    first, after, lost = Lease(store, "w-hangs"), Lease(store, "w-hangs"), list[str]()
    keeping = asyncio.create_task(first.keep(lost.append))
    try:
        assert await first.take() is None
        assert (await after.take() or "").startswith("process ")
        keeping.cancel()  # it hangs
        began = time.monotonic()
        assert await after.take() is None
        assert time.monotonic() - began < DEAD_S + 1
        assert lost == []
        keeping = asyncio.create_task(first.keep(lost.append))  # it goes on
        await eventually(lambda: lost, 3)
        await first.let_go()
        assert await store.run("EXISTS", worker_key("w-hangs")) == 1  # the other's stays
    finally:
        keeping.cancel()


async def test_after_a_stop_the_next_process_does_not_wait(store: Store) -> None:
    first, after = Lease(store, "w-stops"), Lease(store, "w-stops")
    assert await first.take() is None
    await first.let_go()
    began = time.monotonic()
    assert await after.take() is None
    assert time.monotonic() - began < 0.2
