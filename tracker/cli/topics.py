"""`tracker topics create|check`: the topics of tracker/contract/topics.py on a Kafka."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click

from tracker.cli.common import Failure, no_kafka
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.contract.topics import TOPICS, Topic

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

ALREADY_EXISTS: Final = 36
"""Kafka's error code."""
VISIBLE_S: Final = 15.0
CHECKED: Final = (
    "retention.ms", "cleanup.policy", "max.message.bytes", "min.insync.replicas", "unclean.leader.election.enable",
)  # fmt: skip
"""The topic configs that `check` compares."""
SAFE_REPLICAS: Final = 3
"""From so many on an ack is of two brokers at least, and one of the others may be away."""
MIN_MESSAGE_BYTES: Final = 1_000_000
"""What a batch with the largest record may take (MAX_RECORD_BYTES, who it is from, the batch's head)."""


@click.group()
def topics() -> None:
    """Create or check the Kafka topics."""


@topics.command("create")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def create_command(kafka: str | None) -> int:
    """Create the topics that are missing. Topics that exist are left as they are, and checked."""
    settings = load(kafka=kafka)
    for name in asyncio.run(create(settings)):
        click.echo(f"created {name}")
    return _report(settings)


@topics.command("check")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def check_command(kafka: str | None) -> int:
    """Compare the topics with the settings. Exit code 1 when something differs."""
    return _report(load(kafka=kafka))


def _report(settings: Settings) -> int:
    problems = asyncio.run(check(settings))
    for line in problems:
        click.echo(line, err=True)
    if not problems:
        click.echo(f"all {len(TOPICS)} topics are as they should be ({settings.partitions} partitions)")
    return 1 if problems else 0


@asynccontextmanager
async def admin(bootstrap: str, timeout_s: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client that is connected. Raises Failure when nobody answers."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our one line says it
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
    try:
        try:
            async with asyncio.timeout(timeout_s):
                await client.start()
        except ValueError as e:
            raise Failure(f"kafka: '{bootstrap}' is no HOST:PORT ({e})") from None
        except (KafkaError, OSError, TimeoutError):
            raise no_kafka(bootstrap) from None
        try:
            yield client
        except (KafkaError, TimeoutError) as e:
            raise Failure(f"Kafka at {bootstrap} refused: {e or type(e).__name__}") from None
    finally:
        await client.close()


def partitions_of(topic: Topic, settings: Settings) -> int:
    return settings.partitions if topic.partitioned else 1


async def create(settings: Settings) -> list[str]:
    """Create what is missing; returns the names. Raises Failure with Kafka's reason."""
    from aiokafka.admin import NewTopic
    from aiokafka.errors import for_code

    async with admin(settings.kafka) as client:
        present = set(await client.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in present]
        if not missing:
            return []
        answer = await client.create_topics(
            [
                NewTopic(
                    topic.name,
                    partitions_of(topic, settings),
                    settings.replication,
                    topic_configs=_configs(topic, settings.replication),
                )
                for topic in missing
            ]
        )
        for name, code, reason in answer.topic_errors:
            if code not in (0, ALREADY_EXISTS):  # somebody else was faster: as good
                raise Failure(f"topic {name} can't be created: {reason or for_code(code).__name__}")
        # The controller has answered; the broker that is asked next may still be behind it.
        end = time.monotonic() + VISIBLE_S
        while not {topic.name for topic in missing} <= set(await client.list_topics()):
            if time.monotonic() > end:
                raise Failure(
                    f"Kafka made the topics but does not show them after {VISIBLE_S:.0f} s: look at its brokers"
                )
            await asyncio.sleep(0.1)
        return [topic.name for topic in missing]


def _configs(topic: Topic, replicas: int) -> dict[str, str]:
    """Those of a new topic."""
    configs = {"retention.ms": str(topic.retention_ms), "cleanup.policy": "delete"}
    return configs | {"min.insync.replicas": "2"} if replicas >= SAFE_REPLICAS else configs


def differences(topic: Topic, replicas: int, config: Mapping[str, str]) -> Iterator[str]:
    """What of a topic's configs would lose records, or stop its writers, and what to do."""
    name = topic.name
    if (
        policy := config.get("cleanup.policy", "delete")
    ) != "delete":  # beside it, "compact" drops all but a key's last
        yield f"{name} has cleanup.policy={policy}: set it to delete"
    retention_ms = int(config.get("retention.ms", topic.retention_ms))
    if 0 <= retention_ms < topic.retention_ms:  # longer is the operator's choice
        yield f"{name} has retention.ms={retention_ms}: set it to {topic.retention_ms} or more"
    most = int(config.get("max.message.bytes", MIN_MESSAGE_BYTES))
    if most < MIN_MESSAGE_BYTES:
        yield f"{name} has max.message.bytes={most}: set it to 1048588, Kafka's default, or more"
    in_sync = int(config.get("min.insync.replicas", min(replicas, 2)))
    if replicas >= SAFE_REPLICAS and in_sync < 2:
        what = f"min.insync.replicas={in_sync} of {replicas} replicas"
        yield f"{name} has {what}: set it to 2, else one broker can lose what was acked"
    if in_sync > replicas:
        what = f"min.insync.replicas={in_sync} and {replicas} replicas"
        yield f"{name} has {what}: nothing can be written, set it to {replicas} at most"
    if config.get("unclean.leader.election.enable", "false") == "true":
        yield f"{name} has unclean.leader.election.enable=true: set it to false, else what was acked can be lost"


async def check(settings: Settings) -> list[str]:
    """What differs from the table and the settings, a line each."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    async with admin(settings.kafka) as client:
        described = await client.describe_topics()
        counts = {t["topic"]: len(t["partitions"]) for t in described}
        replicas = {t["topic"]: min((len(p["replicas"]) for p in t["partitions"]), default=1) for t in described}
        present = [topic for topic in TOPICS if topic.name in counts]
        answers = await client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, t.name, dict.fromkeys(CHECKED, "")) for t in present]
        )
        configs: dict[str, dict[str, str]] = {
            name: {entry[0]: entry[1] for entry in entries}
            for answer in answers
            for _code, _reason, _type, name, entries in answer.resources
        }
    problems = []
    for topic in TOPICS:
        if topic not in present:
            problems.append(f"{topic.name} does not exist: run `tracker topics create`")
            continue
        wanted, found = partitions_of(topic, settings), counts[topic.name]
        if found != wanted:
            fix = (
                f"set TRACKER_PARTITIONS={found}: state lives by partition, so the count of a topic with data stays"
                if topic.partitioned
                else "delete the topic and run `tracker topics create`"
            )
            problems.append(f"{topic.name} has {found} partitions instead of {wanted}: {fix}")
        problems += differences(topic, replicas[topic.name], configs.get(topic.name, {}))
    return problems
