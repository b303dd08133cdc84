"""`tracker demo` against the real endpoint: what it says was acked is in Kafka."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.harness import Stack, assert_one_line, cli
from tracker.contract.topics import EVENTS

pytestmark = pytest.mark.integration


async def test_what_it_says_was_acked_is_in_kafka_in_the_order_of_the_stories(stack: Stack) -> None:
    args = ("demo", "--url", stack.http, "--rate", "200", "--duration", "3", "--visitors", "40", "--seed", "5")
    done = await asyncio.to_thread(lambda: cli(*args))
    assert done.returncode == 0, done
    sent = re.search(r"sent (\d+), acked (\d+), errors 0", done.stdout)
    assert sent is not None, done.stdout
    count = int(sent[1])
    assert count == int(sent[2])
    assert 500 <= count <= 620
    told = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()[2:]}
    assert sum(told.values()) == count

    # One more than there should be is waited for: none may come.
    events = await stack.consume(
        EVENTS, count + 1, match=lambda e: bool(re.search(r"demo-(user-)?5-", str(e))), timeout_s=8
    )
    assert len(events) == len({e["messageId"] for e in events}) == count
    for name, number in told.items():
        assert sum((e.get("event") or e["type"]) == name for e in events) == number
    # messageIds end in the number of the event: rising in each partition's log for each shopper.
    by_shopper: dict[str, list[int]] = {}
    for event in events:
        by_shopper.setdefault(event.get("anonymousId") or "", []).append(int(event["messageId"].rsplit("-", 1)[1]))
    assert all(numbers == sorted(numbers) for shopper, numbers in by_shopper.items() if shopper)


async def test_a_wrong_write_key_is_one_line(stack: Stack) -> None:
    args = ("demo", "--url", stack.http, "--duration", "1", "--write-key", "wk_of_nobody")
    assert_one_line(await asyncio.to_thread(lambda: cli(*args)), 1, "401", "write key")
