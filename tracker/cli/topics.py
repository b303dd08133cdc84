"""`tracker topics create|check`: the topics of tracker/contract/topics.py on a Kafka."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click

from tracker.cli.common import Failure
from tracker.contract import settings as contract_settings
from tracker.contract.settings import Settings
from tracker.contract.topics import TOPICS, Topic

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

ALREADY_EXISTS: Final = 36
"""Kafka's error code."""
VISIBLE_S: Final = 15.0
CHECKED: Final = ("retention.ms", "cleanup.policy")
"""The topic configs that `check` compares."""


@click.group()
def topics() -> None:
    """Create or check the Kafka topics."""


@topics.command("create")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def create_command(kafka: str | None) -> int:
    """Create the topics that are missing. Topics that exist are left as they are, and checked."""
    settings = contract_settings.load(kafka=kafka)
    for name in asyncio.run(create(settings)):
        click.echo(f"created {name}")
    return _report(settings)


@topics.command("check")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka's bootstrap servers.")
def check_command(kafka: str | None) -> int:
    """Compare the topics with the settings. Exit code 1 when something differs."""
    return _report(contract_settings.load(kafka=kafka))


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
            raise Failure(
                f"no Kafka answers at {bootstrap}: start it (`tracker up` brings one), or set TRACKER_KAFKA to another"
            ) from None
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
                    topic_configs={"retention.ms": str(topic.retention_ms), "cleanup.policy": "delete"},
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


async def check(settings: Settings) -> list[str]:
    """What differs from the table and the settings, a line each."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    async with admin(settings.kafka) as client:
        counts = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics()}
        present = [topic for topic in TOPICS if topic.name in counts]
        answers = await client.describe_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, t.name, {"retention.ms": "", "cleanup.policy": ""})
                for t in present
            ]
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
        config = configs.get(topic.name, {})
        if "delete" not in config.get("cleanup.policy", "delete"):
            problems.append(f"{topic.name} has cleanup.policy={config['cleanup.policy']}: set it to delete")
        retention = int(config.get("retention.ms", topic.retention_ms))
        if 0 <= retention < topic.retention_ms:  # longer is the operator's choice
            problems.append(f"{topic.name} has retention.ms={retention}: set it to {topic.retention_ms} or more")
    return problems
