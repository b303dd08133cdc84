"""Nothing that was answered with 200 is lost, whatever breaks: what was acked is counted against what is in Kafka.

`pytest -s` prints counts and latencies; OUTAGE_S=60 OUTAGE_RATE=2000 makes the outage a long one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.conftest import missing
from tests.endpoint import SHOP, Http, alive, create_topics, endpoint, message_ids, metric, port_of
from tests.faults import Load, counted
from tests.harness import PARTITIONS, Servers, await_kafka, embedded_kafka, eventually
from tracker import metrics
from tracker.cli import dead_letters_log
from tracker.cli.common import Failure
from tracker.cli.up import ready
from tracker.contract.batch import Batch
from tracker.contract.loading import load
from tracker.contract.producer import KafkaOut
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.durable import Durable, SpoolFull
from tracker.embedded.process import Child, PartError, free_port, wait_until
from tracker.spool.format import HEADER, encode

pytestmark = pytest.mark.integration
OUTAGE_S = float(os.environ.get("OUTAGE_S", "5"))
OUTAGE_RATE = int(os.environ.get("OUTAGE_RATE", "1000"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A Kafka that each test may stop, and leaves running."""
    servers = Servers("", "redis://127.0.0.1:1/0")
    try:
        servers.kafka, servers.children["kafka"] = embedded_kafka(tmp_path_factory.mktemp("kafka"))
    except PartError as e:
        missing(str(e))
    try:
        create_topics(servers)
        yield servers
    finally:
        servers.stop()


def state(port: int) -> tuple[int, dict[str, Any]]:
    with Http(port) as client:
        status, _, answer = client.request("GET", "/readyz")
    return status, answer


def await_state(child: Child, status: str, timeout_s: float = 30) -> dict[str, Any]:
    """'ready': all of the spool is in Kafka, too."""
    wait_until(lambda: state(port_of(child))[1]["status"] == status, [child], timeout_s, f"/readyz to say {status!r}")
    return state(port_of(child))[1]


async def until(child: Child, status: str, timeout_s: float = 30) -> dict[str, Any]:
    return await asyncio.to_thread(await_state, child, status, timeout_s)


def post(port: int, message_id: str, text: str = "") -> tuple[int, dict[str, str], Any]:
    with Http(port) as client:
        body = {"userId": "one", "event": "A", "messageId": message_id, "properties": {"x": text}}
        return client.post("/v1/track", body, X_Write_Key=SHOP.write_key)


@contextmanager
def without_kafka(folder: Path, **settings: Any) -> Iterator[Child]:
    """An endpoint that spools: there is no Kafka where it looks for one."""
    with endpoint(folder, f"127.0.0.1:{free_port()}", **settings) as child:
        await_state(child, "spooling")
        yield child


def kill(child: Child) -> None:
    child.kill()
    assert child.process is not None
    child.process.wait(10)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/spool/*/*.spool"))


def corrupt(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/spool/*/*.corrupt"))


async def test_a_broker_that_is_stopped_and_comes_back(servers: Servers, tmp_path: Path) -> None:
    kafka = servers.children["kafka"]
    with endpoint(tmp_path, servers.kafka) as child:
        await until(child, "ready")
        async with Load(port_of(child), OUTAGE_RATE, prefix="outage") as load:
            await asyncio.sleep(1)
            stopped_s = time.monotonic()
            await asyncio.to_thread(kafka.stop)
            await asyncio.sleep(OUTAGE_S)
            answer = await until(child, "spooling")
            assert answer["spool_bytes"] > 0
            assert answer["spool_free_bytes"] > 0
            assert "Kafka" in answer["reason"]
            assert metric(port_of(child), "tracker_spool_records") > 0
            assert 0 < metric(port_of(child), "tracker_spool_oldest_age_seconds") < OUTAGE_S + 20
            kafka.start()
            await asyncio.to_thread(await_kafka, kafka, servers.kafka)
            back_s = time.monotonic()
            await until(child, "ready", 60)
            ready_s = time.monotonic()
            await asyncio.sleep(1)
        assert load.statuses.keys() == {200}
        assert load.longest_s() < 3 + 2  # spool_after_s; all later ones went to the disk at once
        assert metric(port_of(child), "tracker_spool_bytes") == 0
        replayed = metric(port_of(child), "tracker_spool_replayed_total")
        assert replayed == metric(port_of(child), "tracker_spool_written_total") > 0
        assert segments(tmp_path) == []
    assert "Traceback" not in child.log.read_text("utf-8")
    print(f"\nbefore     {load.latency(0, stopped_s)}\nKafka away {load.latency(stopped_s, back_s)}")
    print(f"replay     {load.latency(back_s, ready_s)}: {replayed:.0f} events in {ready_s - back_s:.1f} s")
    print(f"afterwards {load.latency(ready_s, 1e12)}\n{await counted(servers.kafka, load)}")


async def test_a_broker_that_is_frozen(servers: Servers, tmp_path: Path) -> None:
    with endpoint(tmp_path, servers.kafka, spool_after_s=1) as child:
        await until(child, "ready")
        async with Load(port_of(child), 500, prefix="frozen") as load:
            await asyncio.sleep(0.5)
            os.kill(servers.children["kafka"].pid, signal.SIGSTOP)
            try:
                await until(child, "spooling")
                await asyncio.sleep(2)
            finally:
                os.kill(servers.children["kafka"].pid, signal.SIGCONT)
            await until(child, "ready")
        assert load.statuses.keys() == {200}
        assert load.longest_s() < 1 + 2
    assert "Traceback" not in child.log.read_text("utf-8")
    print(f"\n{load.latency(0, 1e12)} {await counted(servers.kafka, load)}")


async def test_kill_9_of_the_endpoint(servers: Servers, tmp_path: Path) -> None:
    """With Kafka there; while it spools; again; then started with Kafka there."""
    loads = []
    for number, kafka in enumerate((servers.kafka, *[f"127.0.0.1:{free_port()}"] * 2)):
        with endpoint(tmp_path, kafka) as child:
            await until(child, "spooling" if number else "ready")
            load = Load(port_of(child), 1000, prefix=f"kill{number}-")
            async with load:
                await asyncio.sleep(1.5)
                kill(child)
            assert len(load.acked) > 500
            loads.append(load)
    assert segments(tmp_path) != []
    with endpoint(tmp_path, servers.kafka) as child:
        await until(child, "ready")
        assert segments(tmp_path) == []
    print(f"\n{await counted(servers.kafka, *loads)}")


async def test_sigterm_under_load(servers: Servers, tmp_path: Path) -> None:
    with endpoint(tmp_path, servers.kafka, drain_s=4) as child:
        await until(child, "ready")
        async with Load(port_of(child), 1000, prefix="term") as load:
            await asyncio.sleep(1)
            assert await asyncio.to_thread(child.stop) == 0
        assert load.statuses.keys() <= {200, 0, 503}
        # What has no answer had not been sent whole when connections were closed, or never was.
        assert len(load.acked) > 500
    print(f"\n{await counted(servers.kafka, load)}")


async def test_sigterm_with_a_dead_kafka_and_a_hung_body(servers: Servers, tmp_path: Path) -> None:
    """What waits for the dead Kafka when the signal comes goes to the disk, and is there for the next process."""
    kafka = servers.children["kafka"]
    with endpoint(tmp_path, servers.kafka, drain_s=3, spool_after_s=60) as child:
        await until(child, "ready")
        with socket.create_connection(("127.0.0.1", port_of(child))) as hung:
            hung.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            async with Load(port_of(child), 500, prefix="dead") as load:
                await asyncio.sleep(0.5)
                os.kill(kafka.pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(1)
                    started_s = time.monotonic()
                    assert await asyncio.to_thread(child.stop) == 0
                    assert time.monotonic() - started_s < 3 + 1.5
                finally:
                    os.kill(kafka.pid, signal.SIGCONT)
        assert segments(tmp_path) != []
        waited = [took for _, took, status in load.answers if status == 200 and took > 0.9]
        assert waited, "none was waiting for the frozen Kafka"
    with endpoint(tmp_path, servers.kafka) as child:
        await until(child, "ready")
    print(f"\n{await counted(servers.kafka, load)}")


async def test_a_spool_that_is_full_says_503_at_once_and_loses_nothing(servers: Servers, tmp_path: Path) -> None:
    with without_kafka(tmp_path, spool_max_bytes=200_000) as child:
        port = port_of(child)
        async with Load(port, 1000, prefix="full") as load:
            answer = await until(child, "not ready")
            assert "full" in answer["reason"]
            # What is just being written counts twice for a moment.
            await eventually(lambda: state(port)[1]["spool_bytes"] <= 200_000)
            await eventually(lambda: load.statuses[503] > 0)
            status, headers, answer = await asyncio.to_thread(post, port, "too-much", "y" * 10_000)
            assert (status, answer["code"]) == (503, "spool_full")
            assert int(headers["retry-after"]) > 0
            await asyncio.sleep(0.5)
        assert load.statuses.keys() == {200, 503}
        assert load.longest_s() < 1
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= 200_000
        assert metric(port, "tracker_events_rejected_total", reason="spool_full") > 0
    with endpoint(tmp_path, servers.kafka, spool_max_bytes=200_000) as child:
        await until(child, "ready")
    print(f"\n{await counted(servers.kafka, load)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")  # the setting's limit is tested everywhere
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_disk_that_is_full_says_503_until_there_is_room(
    servers: Servers, tmp_path: Path, small_disk: Path
) -> None:
    with without_kafka(tmp_path, spool_dir=small_disk) as child:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 600_000)
        async with Load(port_of(child), 2000, prefix="disk") as load:
            answer = await until(child, "not ready")
            assert answer["spool_free_bytes"] < 100_000
            await eventually(lambda: load.statuses[503] > 0)
            status, _, answer = await asyncio.to_thread(post, port_of(child), "too-much", "y" * 10_000)
            assert (status, answer["code"]) == (503, "spool_full")
        # Nobody sends while it is not ready: it finds out by itself.
        ballast.unlink()
        await until(child, "spooling")
        assert (await asyncio.to_thread(post, port_of(child), "disk-after"))[0] == 200
        assert load.statuses.keys() == {200, 503}
        assert load.longest_s() < 2
    with endpoint(tmp_path, servers.kafka, spool_dir=small_disk) as child:
        await until(child, "ready")
    print(f"\n{await counted(servers.kafka, load)}")


async def test_a_disk_that_does_not_answer_is_told_and_used_again_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, real = threading.Event(), os.fdatasync

    def hang(file: int) -> None:
        assert answers.wait(30)
        real(file)

    monkeypatch.setattr(os, "fdatasync", hang)
    settings = load({}, kafka=f"127.0.0.1:{free_port()}", spool_dir=str(tmp_path), produce_timeout_s=0.5)
    durable = Durable(settings)
    await durable.start({EVENTS: PARTITIONS})
    try:
        await eventually(lambda: durable.state().status == "spooling")
        with pytest.raises(SpoolFull, match="does not answer"):
            await asyncio.wait_for(asyncio.shield(durable.append(EVENTS, b"k", b"1", 1)), 5)
        assert (durable.state().status, durable.state().reason[-24:]) == ("not ready", "the disk does not answer")
        with pytest.raises(SpoolFull):  # at once
            durable.append(EVENTS, b"k", b"2", 1)
        answers.set()
        await eventually(lambda: durable.state().status == "spooling")
        await asyncio.wait_for(asyncio.shield(durable.append(EVENTS, b"k", b"3", 1)), 5)
    finally:
        answers.set()
        await durable.stop(5)


async def test_a_damaged_segment_costs_the_damaged_records_alone(servers: Servers, tmp_path: Path) -> None:
    """Its end is missing, and a bit has flipped. Beside it lies the folder of a process that is no more."""
    with without_kafka(tmp_path) as child:
        for n in range(40):
            assert post(port_of(child), f"damaged-{n}")[0] == 200
        kill(child)
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    data[data.index(b'"damaged-7"') + 3] ^= 4
    segment.write_bytes(data[:-5])
    orphan = tmp_path / "data/spool/5"
    orphan.mkdir()
    left = [
        b'{"site":"shop","type":"track","event":"A","messageId":"damaged-%d","userId":"one","receivedAtMs":1,'
        b'"timestampMs":1}' % n for n in (40, 41)
    ]  # fmt: skip
    now_ms = time.time_ns() // 1_000_000
    (orphan / "000000000001.spool").write_bytes(
        HEADER + b"".join(encode(EVENTS.encode(), 1, now_ms, b"one", value) for value in left)
    )
    with endpoint(tmp_path, servers.kafka, spool_adopt_s=0.5) as child:
        await until(child, "ready")
        await eventually(lambda: not any(orphan.glob("*.spool")))
        assert metric(port_of(child), "tracker_spool_repaired_total", kind="corrupt") == 1
        assert metric(port_of(child), "tracker_spool_repaired_total", kind="truncated") == 1
        assert post(port_of(child), "damaged-42")[0] == 200
    found = [each for each in await message_ids(servers.kafka) if each.startswith("damaged-")]
    assert sorted(found) == sorted(f"damaged-{n}" for n in range(43) if n not in (7, 39))
    assert len(corrupt(tmp_path)) == 2


async def configure(bootstrap: str, topic: str, **values: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        configs = {name.replace("_", "."): value for name, value in values.items()}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    finally:
        await admin.close()


async def test_a_record_that_kafka_refuses_is_set_aside(servers: Servers, tmp_path: Path) -> None:
    with without_kafka(tmp_path) as child:
        for n in range(6):
            assert post(port_of(child), f"refused-{n}", os.urandom(3000).hex() if n == 3 else "")[0] == 200
    await configure(servers.kafka, EVENTS, max_message_bytes="4000")
    try:
        with endpoint(tmp_path, servers.kafka) as child:
            await until(child, "ready")
            assert metric(port_of(child), "tracker_spool_repaired_total", kind="refused") == 1
    finally:
        await configure(servers.kafka, EVENTS, max_message_bytes="1048588")
    (kept,) = corrupt(tmp_path)
    assert b'"refused-3"' in kept.read_bytes()
    found = [each for each in await message_ids(servers.kafka) if each.startswith("refused-")]
    assert sorted(set(found)) == [f"refused-{n}" for n in (0, 1, 2, 4, 5)]


async def test_what_is_held_goes_to_kafka_when_it_is_released_and_back_when_it_is_late(servers: Servers) -> None:
    back: list[bytes] = []

    def rescue(batches: list[Batch], why: str) -> None:
        back.extend(value for batch in batches for _, _, value in batch.records())

    out = KafkaOut(
        servers.kafka, linger_ms=1, max_pending_bytes=1 << 20, produce_timeout_s=1, client_id="test",
        observer=metrics.Replaying(), rescue=rescue,
    )  # fmt: skip
    await out.start({EVENTS: PARTITIONS})
    try:
        await asyncio.wait_for(out.connected.wait(), 10)
        mark = time.time_ns()

        def put(name: str, partition: int) -> asyncio.Future[None]:
            return out.append(EVENTS, b"k", b'{"messageId":"held-%d-%s"}' % (mark, name.encode()), None, partition)

        out.hold([(EVENTS, 0), (EVENTS, 1)])
        held, free = put("held", 0), put("free", 2)
        await asyncio.wait_for(free, 5)
        await asyncio.sleep(0.2)
        assert not held.done()
        out.release([(EVENTS, 0)])
        await asyncio.wait_for(held, 5)
        put("late", 1)
        await eventually(lambda: back)
        assert out.connected.is_set()  # the others' producer is not given up for it
        await asyncio.wait_for(put("after", 1), 5)
        out.hold([(EVENTS, 3)])
        put("lost", 3)
        out.give_up("the producer is lost")
        await asyncio.wait_for(out.connected.wait(), 10)
        again = put("again", 3)  # the spool's end may still be on its way
        await asyncio.sleep(0.3)
        assert not again.done()
        out.release([(EVENTS, 3)])
        await asyncio.wait_for(again, 5)
    finally:
        await out.stop(2)
    assert [json.loads(value)["messageId"] for value in back] == [f"held-{mark}-late", f"held-{mark}-lost"]
    stored = [each for each in await message_ids(servers.kafka) if each.startswith(f"held-{mark}")]
    assert sorted(stored) == [f"held-{mark}-{name}" for name in ("after", "again", "free", "held")]


async def test_a_list_of_dead_letters_ends_when_kafka_freezes_in_its_middle(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters_log, "STALLED_S", 1.0)
    async with AIOKafkaProducer(bootstrap_servers=servers.kafka, max_request_size=4 << 20) as producer:
        for _ in range(12):  # more than is fetched at once
            await producer.send_and_wait(DEAD_LETTERS, b" " * 900_000, partition=0)
    pid, read = servers.children["kafka"].pid, 0

    async def freeze_after_the_first() -> None:
        nonlocal read
        async with dead_letters_log.Reader(load({}, kafka=servers.kafka)) as consumer, asyncio.timeout(15):
            async for _ in dead_letters_log.records(consumer):
                read += 1
                os.kill(pid, signal.SIGSTOP)

    try:
        with pytest.raises(Failure, match="for 1 s"):
            await freeze_after_the_first()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert 0 < read < 12


def test_without_kafka_and_with_a_spool_it_is_ready_and_takes_events(tmp_path: Path) -> None:
    with without_kafka(tmp_path) as child:
        assert ready("127.0.0.1", port_of(child))
        assert post(port_of(child), "alone")[0] == 200
        assert alive(port_of(child))
        assert child.stop() == 0
    assert b'"alone"' in segments(tmp_path)[0].read_bytes()


async def test_a_topic_that_comes_to_the_spool_while_it_is_sent_is_sent_too(servers: Servers, tmp_path: Path) -> None:
    """Events alone lie there when the replay begins; in its middle Kafka freezes, and a dead letter is spooled."""
    with without_kafka(tmp_path) as child:
        for n in range(4):
            ids = [f"topic-{n}-{i}" for i in range(150)]
            batch = [{"type": "page", "name": "x" * 900, "userId": "one", "messageId": each} for each in ids]
            with Http(port_of(child)) as client:
                assert client.post("/v1/batch", {"batch": batch}, X_Write_Key=SHOP.write_key)[0] == 200
    with endpoint(tmp_path, servers.kafka, spool_after_s=0.5, spool_replay_per_s=100) as child:
        await eventually(lambda: metric(port_of(child), "tracker_spool_replayed_total") > 0)
        os.kill(servers.children["kafka"].pid, signal.SIGSTOP)
        try:
            with Http(port_of(child)) as client:
                nameless = {"batch": [{"type": "track", "userId": "one"}]}
                answer = await asyncio.to_thread(client.post, "/v1/batch", nameless, X_Write_Key=SHOP.write_key)
            assert answer[0] == 200
        finally:
            os.kill(servers.children["kafka"].pid, signal.SIGCONT)
        await until(child, "ready")
        assert segments(tmp_path) == []
    assert len({each for each in await message_ids(servers.kafka) if each.startswith("topic-")}) == 600
