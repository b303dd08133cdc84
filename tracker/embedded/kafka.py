"""A single-node Kafka (KRaft) in a data directory, on loopback.

DIR/server.properties   written at every start
DIR/log/                Kafka's data; formatted once
DIR/tmp/                native libraries that Kafka unpacks; emptied at every start
"""

from __future__ import annotations

import asyncio
import base64
import logging
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from tracker.embedded import parts
from tracker.embedded.process import SERVER_PROBLEM, Child, PartError, free_port

PROPERTIES = """\
# Written by tracker/embedded/kafka.py at every start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dir}

# Topics are made by `tracker topics create` alone: a misspelt name must not make one.
auto.create.topics.enable=false
# One node holds everything once.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
# After a kill the broker is let in again when its old session has ended (9 s by default). Broker and controller share a
# process here: what stalls the one stalls the other, so a short session fences nobody by mistake.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
# Segments and their indexes are preallocated by partition; small ones suit a laptop's disk.
log.segment.bytes=134217728
log.index.size.max.bytes=2097152
# What a power cut may lose; a killed process loses nothing.
log.flush.interval.ms=1000
"""


def broker(
    folder: Path,
    port: int,
    heap_mb: int,
    log: Path,
    *,
    keep_fds: Sequence[int] = (),
    say: parts.Say = lambda _: None,
) -> Child:
    """The broker, ready to start. Raises PartError when a part is missing or the data can't be used."""
    java, jars = parts.java(), parts.kafka_jars(say)
    data, tmp, properties = folder / "log", folder / "tmp", folder / "server.properties"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    properties.write_text(
        PROPERTIES.format(port=port, controller_port=free_port(), log_dir=str(data.resolve()).replace("\\", "\\\\")),
        "utf-8",
    )
    common = [
        java,
        "-cp",
        str(jars / "*"),
        f"-Djava.io.tmpdir={tmp.resolve()}",
        # The quick compiler alone: half the CPU until Kafka answers (3.8 s for 6.5), and no more for each record after.
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]
    common += [
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    ]
    if not (data / "meta.properties").exists():
        say("formatting Kafka's storage")
        done = subprocess.run(
            [*common, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            told = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise PartError(f"Kafka's storage {data} can't be formatted: {told[-1] if told else 'no output'}")
    heap = [
        f"-Xmx{heap_mb}m",
        f"-Xms{min(heap_mb, 128)}m",
        "-XX:MaxGCPauseMillis=20",
        "-Djava.awt.headless=true",
        "-XX:+ExitOnOutOfMemoryError",
    ]
    argv = [*common, *heap, "kafka.Kafka", str(properties)]
    return Child("kafka", argv, log, keep_fds=keep_fds, grace_s=20, problem=SERVER_PROBLEM)


def answers(bootstrap: str, timeout_s: float = 3.0) -> bool:
    """True once a metadata request is answered by a broker that takes work."""
    try:
        return asyncio.run(_brokers(bootstrap, timeout_s)) > 0
    except (OSError, TimeoutError):
        return False


async def _brokers(bootstrap: str, timeout_s: float) -> int:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # "unable to connect" is what is being found out here
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            return len((await admin.describe_cluster())["brokers"])
    except KafkaError:
        return 0
    finally:
        await admin.close()


def _cluster_id() -> str:
    """Kafka's form of a UUID: base64url without padding; a '-' in front would look like an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
