"""The Kafka producer against the real broker: each record once and in order, whatever happens to its connections."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError

from tracker import metrics
from tracker.cli import topics
from tracker.contract import sender
from tracker.contract.batch import Batch
from tracker.contract.producer import KafkaOut, ProduceError
from tracker.contract.sender import Sender

pytestmark = pytest.mark.integration
PARTS = 4


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    name = f"producer-{uuid4()}"
    async with topics.admin(kafka_bootstrap) as client:
        await client.create_topics([NewTopic(name, PARTS, 1)])
    return name


@pytest.fixture
async def out(kafka_bootstrap: str, topic: str) -> AsyncIterator[KafkaOut]:
    out = KafkaOut(
        kafka_bootstrap, linger_ms=1, max_pending_bytes=1 << 24, produce_timeout_s=5, client_id="test",
        observer=metrics.Replaying(),
    )  # fmt: skip
    await out.start({topic: PARTS})
    try:
        await asyncio.wait_for(out.connected.wait(), 15)
        yield out
    finally:
        await out.stop(2)


async def stored(bootstrap: str, topic: str) -> dict[int, list[int]]:
    """Partition -> the numbers in it, in their order."""
    found: dict[int, list[int]] = {partition: [] for partition in range(PARTS)}
    places = [TopicPartition(topic, partition) for partition in found]
    earliest = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    async with earliest as consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            while await consumer.position(place) < ends[place]:
                batches = await consumer.getmany(place, timeout_ms=500)
                found[place.partition] += [int(r.value.split()[0]) for r in batches.get(place, ())]
    return found


async def warm(out: KafkaOut, topic: str) -> None:
    """A zero into each partition: the leader of a new one may not know of it yet."""
    for partition in range(PARTS):
        await asyncio.wait_for(out.append(topic, None, b"0", None, partition), 10)


def sender_of(out: KafkaOut) -> Sender:
    assert out._sender is not None
    return out._sender


async def test_each_record_arrives_once_and_in_order_while_connections_are_cut(
    kafka_bootstrap: str, topic: str, out: KafkaOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third request has left when its connection is cut: Kafka may have it, its answer never comes."""
    request, requests, cut = Sender._request, 0, 0

    def cutting(self: Sender, conn: AIOKafkaConnection, node: int, batches: list[Batch]) -> None:
        nonlocal requests, cut
        request(self, conn, node, batches)
        requests += 1
        if requests % 3 == 0:
            cut += 1
            asyncio.get_running_loop().call_later(0.001 * (cut % 3), conn._writer.transport.abort)

    monkeypatch.setattr(Sender, "_request", cutting)
    first, acks, sent = sender_of(out), set(), 0
    while cut < 8:
        for _ in range(20):
            acks.add(out.append(topic, None, b"%d " % sent + b"x" * 300, None, sent % PARTS))
            sent += 1
        await asyncio.sleep(0.01)
    await asyncio.wait_for(asyncio.gather(*acks), 20)
    assert sender_of(out) is first  # nobody gave it up
    found = await stored(kafka_bootstrap, topic)
    assert found == {partition: list(range(partition, sent, PARTS)) for partition in range(PARTS)}


async def test_what_kafka_has_is_acked_when_it_is_sent_again(
    kafka_bootstrap: str, topic: str, out: KafkaOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is turned into one that asks for another try: Kafka knows the repeat by its number."""
    await warm(out, topic)
    answers: list[Counter[int]] = []
    read: Callable[[memoryview], dict[tuple[str, int], int]] = sender._codes

    def codes(answer: memoryview) -> dict[tuple[str, int], int]:
        found = read(answer)
        answers.append(Counter(found.values()))
        return found if len(answers) > 1 else dict.fromkeys(found, NotLeaderForPartitionError.errno)

    monkeypatch.setattr(sender, "_codes", codes)
    for n in (1, 2, 3):
        await asyncio.wait_for(out.append(topic, None, b"%d" % n, None, 0), 10)
    assert answers == [Counter({0: 1})] * 4
    assert (await stored(kafka_bootstrap, topic))[0] == [0, 1, 2, 3]


async def test_sequence_numbers_go_on_from_nought(kafka_bootstrap: str, topic: str, out: KafkaOut) -> None:
    sender_of(out)._sequences[topic, 0] = 2**31 - 2
    for n in range(4):
        await asyncio.wait_for(out.append(topic, None, b"%d" % n, None, 0), 10)
    assert sender_of(out)._sequences[topic, 0] == 2
    assert (await stored(kafka_bootstrap, topic))[0] == [0, 1, 2, 3]


async def test_a_request_holds_all_partitions_and_a_broker_has_one_under_way(
    topic: str, out: KafkaOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    await warm(out, topic)
    requests: list[int] = []
    encode = Sender._encode

    def counted(self: Sender, correlation_id: int, batches: list[Batch]) -> bytes:
        requests.append(len(batches))
        return encode(self, correlation_id, batches)

    monkeypatch.setattr(Sender, "_encode", counted)
    acks = {out.append(topic, None, b"%d" % n, None, n % PARTS) for n in range(PARTS * 10)}
    while not requests:  # noqa: ASYNC110
        await asyncio.sleep(0)
    acks |= {out.append(topic, None, b"%d" % n, None, n % PARTS) for n in range(PARTS * 10)}
    await asyncio.sleep(0)
    assert requests == [PARTS]  # the second waits for the answer to the first
    await asyncio.wait_for(asyncio.gather(*acks), 10)
    assert requests == [PARTS, PARTS]


@pytest.mark.parametrize("beside", [0, NotLeaderForPartitionError.errno], ids=["acked at once", "asked for again"])
async def test_what_is_refused_fails_alone_and_the_next_goes_on(
    kafka_bootstrap: str, topic: str, out: KafkaOut, monkeypatch: pytest.MonkeyPatch, beside: int
) -> None:
    await warm(out, topic)
    read, first = sender._codes, True

    def codes(answer: memoryview) -> dict[tuple[str, int], int]:
        nonlocal first
        found = {where: code or (beside if first else 0) for where, code in read(answer).items()}
        first = False
        return found

    monkeypatch.setattr(sender, "_codes", codes)
    fine = out.append(topic, None, b"1", None, 1)
    with pytest.raises(ProduceError, match=MessageSizeTooLargeError.__name__):
        await asyncio.wait_for(out.append(topic, None, b"0 " + os.urandom(1_200_000), None, 0), 10)
    await asyncio.wait_for(fine, 10)
    await asyncio.wait_for(out.connected.wait(), 10)

    async def again() -> None:
        while True:  # until the one that follows it takes records
            try:
                return await out.append(topic, None, b"2", None, 0)
            except ProduceError:
                await asyncio.sleep(0.1)

    await asyncio.wait_for(again(), 10)
    found = await stored(kafka_bootstrap, topic)
    assert (found[0], found[1]) == ([0, 2], [0, 1])


async def test_a_missing_topic_is_named(kafka_bootstrap: str) -> None:
    out = KafkaOut(
        kafka_bootstrap, linger_ms=1, max_pending_bytes=1 << 24, produce_timeout_s=1, client_id="test",
        observer=metrics.Replaying(),
    )  # fmt: skip
    await out.start({"nobody-made-this": None})
    try:
        async with asyncio.timeout(15):
            while not out.tried:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "topic nobody-made-this is missing" in out.problem
        with pytest.raises(ProduceError, match="missing"):
            out.partition_of("nobody-made-this", b"k")
    finally:
        await out.stop(1)


async def test_a_producer_that_is_being_replaced_can_be_stopped_at_any_moment(kafka_bootstrap: str, topic: str) -> None:
    """A stop that came just as the old connection was closed was lost, and waited for ever for what went on."""
    for turns in range(40):
        out = KafkaOut(
            kafka_bootstrap, linger_ms=1, max_pending_bytes=1 << 20, produce_timeout_s=5, client_id="test",
            observer=metrics.Producing(),
        )  # fmt: skip
        await out.start({topic: None})
        async with asyncio.timeout(10):
            await out.connected.wait()
        out._broken.set()
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await out.stop(0.1)
