"""Clients of other vendors that run on servers: each as it is installed from its registry, with its own options.

All of them run at once, each twice: straight against the endpoint, and through a proxy that answers 503 for a while and
then cuts a connection after the endpoint has acked. What they sent is then looked up in Kafka.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.clients.drive import GO, MANY, SERVER_CLIENTS, Faults, Run, check, drive, read_all
from tests.conftest import missing
from tests.harness import Stack, run_async
from tracker.contract.topics import DEAD_LETTERS, EVENTS

pytestmark = pytest.mark.integration

Sent = tuple[dict[tuple[str, bool], Run], list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sent(stack: Stack) -> Sent:
    """(client, with faults?) -> its run; the events in Kafka; the dead letters, with their `user`."""
    site = stack.site()
    there = {name: client for name, client in SERVER_CLIENTS.items() if client.missing() is None}
    runs = {}
    with ExitStack() as opened, ThreadPoolExecutor(4) as pool:
        for faulty in (True, False):  # those that wait for retries first
            for name, client in there.items():
                host = opened.enter_context(Faults(stack.http)).url if faulty else stack.http
                user = f"{name}{'-faulty' if faulty else ''}"
                runs[name, faulty] = pool.submit(drive, client, host, site, user, faulty)
        done = {key: run.result() for key, run in runs.items()}
    events = run_async(read_all(stack, EVENTS, site))
    letters = run_async(read_all(stack, DEAD_LETTERS, site))
    for letter in letters:
        original = base64.b64decode(letter["original"]).decode()  # its first 32 KB
        letter["user"] = next((run.user for run in done.values() if f'"{run.user}"' in original), None)
    return done, events, letters


def run_of(sent: Sent, name: str, faulty: bool) -> Run:
    client = SERVER_CLIENTS[name]
    if reason := client.missing():
        if client is GO and shutil.which("go") is None:
            pytest.skip("Go is not installed: apt-get install golang-go")
        missing(reason)
    return sent[0][name, faulty]


@pytest.mark.parametrize("name", SERVER_CLIENTS)
def test_every_call_is_in_kafka_exactly_once(sent: Sent, name: str) -> None:
    run = run_of(sent, name, False)
    check(run, *sent[1:])
    times = Counter(event["messageId"] for event in sent[1] if event.get("userId") == run.user)
    assert set(times.values()) == {1}
    assert len(times) >= MANY


@pytest.mark.parametrize("name", SERVER_CLIENTS)
def test_nothing_is_lost_when_the_endpoint_is_busy_and_an_ack_is_lost(sent: Sent, name: str) -> None:
    run = run_of(sent, name, True)
    check(run, *sent[1:])
    times = Counter(event["messageId"] for event in sent[1] if event.get("userId") == run.user)
    # The lost ack made the client repeat a request, with the same messageIds and the same content.
    assert max(times.values()) == 2
    for message_id in times:
        same = [{**e, "receivedAtMs": 0, "timestampMs": 0} for e in sent[1] if e["messageId"] == message_id]
        assert all(json.dumps(e) == json.dumps(same[0]) for e in same)
