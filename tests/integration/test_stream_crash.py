"""A worker one of whose parts fails ends, and says why: a supervisor can only start again what has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.harness import Stack, eventually
from tracker.embedded.process import Child

pytestmark = pytest.mark.integration

FETCH_FAILS = """
import time
from faust.transport.drivers import aiokafka as driver
from stream.worker import run
from tracker.contract.loading import (load)

fetch, began = driver.AIOKafkaConsumerThread._fetch_records, time.monotonic()

async def fails(self, *args, **kwargs):
    if time.monotonic() - began > 8:
        raise RuntimeError("as a broken record batch would")
    return await fetch(self, *args, **kwargs)

driver.AIOKafkaConsumerThread._fetch_records = fails
raise SystemExit(run(load()))
"""


async def test_a_worker_in_which_faust_crashed_ends_with_the_reason(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack(partitions=2)
    stack.worker.stop()
    log = stack.folder / "crashing.log"
    child = Child("crashing", [sys.executable, "-c", FETCH_FAILS], log, env=stack.env, cwd=stack.folder).start()
    stack.others.append(child)
    await eventually(lambda: child.process is not None and child.process.poll() is not None)
    assert child.process is not None
    assert child.process.returncode == 70, log.read_text()
    assert "Faust crashed: RuntimeError('as a broken record batch would')" in log.read_text()
