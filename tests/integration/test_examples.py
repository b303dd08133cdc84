"""The examples of subscribers, as a user runs them, against the real topics: each trigger is handled once."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness import ROOT, Stack
from tests.integration.test_webhooks import SECRET, Receiver, Setup, until
from tracker.contract.signature import headers, key_of
from tracker.embedded.process import Child, free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def setup(stack: Stack) -> Setup:
    return Setup(stack, Receiver())


@asynccontextmanager
async def running(setup: Setup, name: str, *args: str) -> AsyncIterator[Callable[[], list[str]]]:
    """An example; gives what it has printed."""
    log = setup.stack.folder / f"{name}-{time.time_ns()}.log"
    child = Child(name, [sys.executable, str(ROOT / "examples" / name), *args], log, env=setup.stack.env, grace_s=5)
    child.start()
    try:
        yield lambda: log.read_text().splitlines()
    finally:
        child.stop()


async def test_the_subscriber_handles_each_trigger_once_also_after_a_restart(setup: Setup, tmp_path: Path) -> None:
    args = (setup.stack.settings.kafka, str(tmp_path / "seen.db"), "cart_abandoned", "churn_risk")
    ids = [f"x{n}-{setup.run}" for n in range(3)]
    await setup.publish(*ids, ids[0])

    def mine(lines: list[str]) -> list[str]:
        return [line.split()[0] for line in lines if setup.run in line]

    async with running(setup, "subscriber.py", *args) as lines:
        await until(lambda: mine(lines()) == ids)
    await setup.publish(*ids, f"last-{setup.run}")
    async with running(setup, "subscriber.py", *args) as lines:
        await until(lambda: mine(lines()) == [f"last-{setup.run}"])


async def test_the_webhook_receiver_handles_each_trigger_once_and_nothing_that_others_send(
    setup: Setup, tmp_path: Path
) -> None:
    port, database = free_port(), tmp_path / "seen.db"
    url = f"http://127.0.0.1:{port}"
    setup.hook("n8n", url=f"{url}/webhook")
    ids = [f"y{n}-{setup.run}" for n in range(3)]
    async with running(setup, "webhook_receiver.py", str(port), str(database), SECRET) as lines, setup.delivering():
        await setup.publish(*ids, ids[0])
        await until(lambda: sorted(line.split()[0] for line in lines()) == ids)
        body = json.dumps({"id": "evil", "type": "t", "data": {"profileId": "p"}}).encode()
        now_s = int(time.time())
        good = headers([key_of(SECRET)], "evil", now_s, body)
        for wrong in (
            {}, {**good, "webhook-signature": "v1,AAAA"}, {**good, "webhook-id": "other"},
            headers([key_of("whsec_" + "QUFB" * 8)], "evil", now_s, body),
            headers([key_of(SECRET)], "evil", now_s - 400, body),
        ):  # fmt: skip
            assert send(url, body, wrong) == 401
        assert send(url, body + b" ", good) == 401
        assert send(url, body, good) == 204
        await until(lambda: len(lines()) == 4)
    with sqlite3.connect(database) as seen:
        assert {id for (id,) in seen.execute("SELECT id FROM seen")} == {*ids, "evil"}
    seen.close()


def send(url: str, body: bytes, given: dict[str, str]) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, given), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return e.code
