"""`tracker topics create|check` against a real Kafka of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from tests.conftest import embedded
from tests.harness import assert_one_line, cli, embedded_kafka, eventually, run_async
from tracker.cli import topics
from tracker.contract.loading import load
from tracker.contract.topics import DEAD_LETTERS, EVENTS, PROFILE_EVENTS, TOPICS
from tracker.contract.triggers import CART_ABANDONED

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bare_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker without any topic."""
    with embedded(embedded_kafka, tmp_path_factory.mktemp("bare")) as bootstrap:
        yield bootstrap


async def make(bootstrap: str, *made: NewTopic) -> None:
    async with topics.admin(bootstrap) as client:
        answer = await client.create_topics(list(made))
        assert [code for _, code, _ in answer.topic_errors] == [0] * len(made)

        async def shown() -> bool:
            return {topic.name for topic in made} <= set(await client.list_topics())

        await eventually(shown)


async def delete(bootstrap: str, *names: str) -> None:
    async with topics.admin(bootstrap) as client:
        await client.delete_topics(list(names))

        async def gone() -> bool:
            return not set(names) & set(await client.list_topics())

        await eventually(gone)


def test_topics_are_created_once_with_partitions_and_retention_and_check_finds_what_differs(bare_kafka: str) -> None:
    """One story on one broker, in the order in which an operator meets it."""
    missing = cli("topics", "check", kafka=bare_kafka, partitions=4)
    assert missing.returncode == 1
    assert f"{EVENTS} does not exist: run `tracker topics create`" in missing.stderr
    assert len(missing.stderr.splitlines()) == len(TOPICS)

    created = cli("topics", "create", kafka=bare_kafka, partitions=4)
    assert created.returncode == 0, created.stderr
    assert {line.removeprefix("created ") for line in created.stdout.splitlines()[:-1]} == {t.name for t in TOPICS}
    again = cli("topics", "create", kafka=bare_kafka, partitions=4)
    assert again.returncode == 0
    assert "created" not in again.stdout
    assert cli("topics", "check", kafka=bare_kafka, partitions=4).returncode == 0

    other = cli("topics", "check", kafka=bare_kafka, partitions=64)
    assert other.returncode == 1
    assert other.stderr.splitlines() == [
        f"{name} has 4 partitions instead of 64: set TRACKER_PARTITIONS=4: "
        "state lives by partition, so the count of a topic with data stays"
        for name in (EVENTS, PROFILE_EVENTS)
    ]
    assert cli("topics", "create", kafka=bare_kafka, partitions=64).returncode == 1  # what exists stays as it is
    assert cli("topics", "check", kafka=bare_kafka, partitions=4).returncode == 0

    run_async(delete(bare_kafka, DEAD_LETTERS, CART_ABANDONED.topic))
    short = {"retention.ms": "60000", "cleanup.policy": "compact,delete", "max.message.bytes": "100000"}
    short |= {"min.insync.replicas": "2", "unclean.leader.election.enable": "true"}
    run_async(make(bare_kafka, NewTopic(DEAD_LETTERS, 1, 1, topic_configs=short), NewTopic(CART_ABANDONED.topic, 3, 1)))
    problems = run_async(topics.check(load({"TRACKER_KAFKA": bare_kafka, "TRACKER_PARTITIONS": "4"})))
    assert [p.removeprefix(f"{DEAD_LETTERS} has ").partition(":")[0] for p in problems if DEAD_LETTERS in p] == [
        "cleanup.policy=compact,delete", "retention.ms=60000", "max.message.bytes=100000",
        "min.insync.replicas=2 and 1 replicas", "unclean.leader.election.enable=true",
    ]  # fmt: skip
    assert any(
        p.startswith(f"{CART_ABANDONED.topic} has 3 partitions instead of 1: delete the topic") for p in problems
    )
    assert len(problems) == 6


def test_a_replication_that_the_cluster_can_not_give_is_one_line(bare_kafka: str, tmp_path: Path) -> None:
    run_async(delete(bare_kafka, DEAD_LETTERS))
    done = cli("topics", "create", kafka=bare_kafka, replication=3, partitions=4)
    assert_one_line(done, 1, f"topic {DEAD_LETTERS} can't be created", "eplication")
