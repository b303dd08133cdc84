"""`tracker tail` shows what arrives in Kafka."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from tests.harness import PARTITIONS, cli_env, eventually, run_async
from tracker.cli import topics
from tracker.contract.events import Event
from tracker.contract.loading import load
from tracker.contract.topics import DEAD_LETTERS, EVENTS, DeadLetter, Replay
from tracker.contract.triggers import CART_ABANDONED, HEADERS, CartAbandoned, CartLine, encode_trigger

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def kafka(kafka_bootstrap: str) -> str:
    env = {"TRACKER_KAFKA": kafka_bootstrap, "TRACKER_PARTITIONS": str(PARTITIONS)}
    run_async(topics.create(load(env)))
    return kafka_bootstrap


class Tail:
    """A running `tracker tail`: `lines()` is what it has printed."""

    def __init__(self, process: subprocess.Popen[str], out: str) -> None:
        self.process, self.out = process, out

    def lines(self) -> list[str]:
        with open(self.out, encoding="utf-8") as f:
            return f.read().splitlines()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@contextmanager
def tail(kafka: str, out: str, *args: str) -> Iterator[Tail]:
    """Started, and in its place: what is sent from now on is seen."""
    with open(out, "w", encoding="utf-8") as f:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker.cli", "tail", *args],
            env=cli_env(kafka=kafka), stdout=f, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        yield Tail(process, out)
    finally:
        process.kill()
        process.communicate()


async def produce(kafka: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, headers=HEADERS)


def a_trigger(trigger_id: str) -> bytes:
    now = int(time.time() * 1000)
    data = CartAbandoned(
        profile_id="p1", stage="checkout", value=378000,
        items=[CartLine(product_id="ao", name="Áo \x1b[31m", quantity=2)],
        episode=1, seq=1, opened_at_ms=now, last_activity_ms=now, abandoned_at_ms=now, currency="VND", user_id="u-42",
    )  # fmt: skip
    return encode_trigger(CART_ABANDONED, id=trigger_id, site="demo", profile_id="p1", at_ms=now, data=data)


async def test_a_trigger_is_one_line_with_what_it_is_about(kafka: str, tmp_path: object) -> None:
    before, after = str(uuid.uuid4()), str(uuid.uuid4())
    await produce(kafka, CART_ABANDONED.topic, a_trigger(before))
    with tail(kafka, f"{tmp_path}/out") as running:
        await produce(kafka, CART_ABANDONED.topic, a_trigger(after))
        lines = await eventually(running.lines)
        assert len(lines) == 1
        for part in (after, "cart_abandoned", "demo", "checkout 378,000 VND", "2 x Áo", "u-42", "profile p1"):
            assert part in lines[0]
        assert before not in lines[0]  # only what is new
        assert "\x1b" not in lines[0]
        assert running.end(signal.SIGINT) == 0


async def test_json_from_the_start_is_the_records_as_they_are(kafka: str, tmp_path: object) -> None:
    marks = [str(uuid.uuid4()) for _ in range(3)]
    values = [a_trigger(mark) for mark in marks]
    await produce(kafka, CART_ABANDONED.topic, *values)
    with tail(kafka, f"{tmp_path}/out", "--json", "--from-start") as running:

        def ours() -> list[str]:
            lines = [line for line in running.lines() if json.loads(line)["id"] in marks]
            assert len(lines) == 3
            return lines

        assert [line.encode() for line in await eventually(ours)] == values
        assert running.end(signal.SIGTERM) == 0


async def test_a_dead_letter_shows_its_reason_and_the_original_as_text(kafka: str, tmp_path: object) -> None:
    letter = DeadLetter(
        reason="bad_json",
        detail="byte 7",
        stage="endpoint",
        at_ms=int(time.time() * 1000),
        original=b'{"type":"tr\xffack',
        site="demo",
    )
    with tail(kafka, f"{tmp_path}/out", "--topic", "dead-letters") as running:
        await produce(kafka, DEAD_LETTERS, msgspec.json.encode(letter), b"not json at all")
        await produce(
            kafka, DEAD_LETTERS, msgspec.json.encode(Replay(replay="done", at_ms=1, letters=[7, 9], begun=10))
        )
        lines = await eventually(lambda: running.lines() if len(running.lines()) == 3 else None)
        assert lines is not None
        for part in ("bad_json", "byte 7", "endpoint", '{"type":"tr\N{REPLACEMENT CHARACTER}ack'):
            assert part in lines[0]
        assert "unreadable" in lines[1]
        assert "not json at all" in lines[1]
        assert "2 letters: replay done" in lines[2]


async def test_events_of_all_partitions_are_seen(kafka: str, tmp_path: object) -> None:
    mark = str(uuid.uuid4())
    now = int(time.time() * 1000)
    values = [
        msgspec.json.encode(
            Event(
                site="demo",
                type="track",
                event="Product Viewed",
                message_id=f"{mark}-{i}",
                timestamp_ms=now,
                received_at_ms=now,
                channel="site",
                anonymous_id="a1",
            )
        )
        for i in range(40)
    ]
    with tail(kafka, f"{tmp_path}/out", "--topic", "events") as running:
        await produce(kafka, EVENTS, *values)

        def seen() -> bool:
            lines = [line for line in running.lines() if mark in line]
            return len(lines) == 40 and all("Product Viewed" in line and "a1" in line for line in lines)

        await eventually(seen)
