"""What of a topic's configs loses records."""

from __future__ import annotations

import pytest

from tracker.cli.topics import _configs, differences
from tracker.contract.topics import TOPICS, Topic


@pytest.mark.parametrize(
    ("replicas", "config", "problem"),
    [
        (1, {"min.insync.replicas": "1"}, None),
        (2, {"min.insync.replicas": "1"}, None),  # of two, both would have to be there all the time
        (3, {"min.insync.replicas": "1"}, "min.insync.replicas=1 of 3 replicas"),
        (3, {"min.insync.replicas": "2"}, None),
        (2, {"min.insync.replicas": "3"}, "min.insync.replicas=3 and 2 replicas"),
        (1, {"cleanup.policy": "compact,delete"}, "cleanup.policy=compact,delete"),
        (1, {"retention.ms": "-1", "max.message.bytes": "1048588"}, None),
        (1, {"max.message.bytes": "999999"}, "max.message.bytes=999999"),
        (1, {"unclean.leader.election.enable": "true"}, "unclean.leader.election.enable=true"),
        (1, {}, None),
    ],
)
def test_what_would_lose_records_or_stop_writers_is_told(
    replicas: int, config: dict[str, str], problem: str | None
) -> None:
    topic = TOPICS[0]
    found = [line.removeprefix(f"{topic.name} has ").partition(":")[0] for line in differences(topic, replicas, config)]
    assert found == ([problem] if problem is not None else [])


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topic_as_it_is_created_has_nothing_to_be_told(topic: Topic, replicas: int) -> None:
    configs = _configs(topic, replicas)
    assert list(differences(topic, replicas, {"min.insync.replicas": "1", **configs})) == []
