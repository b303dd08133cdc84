"""`tracker doctor` against a real Kafka and Redis, healthy and not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.harness import PARTITIONS, assert_one_line, cli, run_async
from tracker.cli import topics
from tracker.contract.loading import load

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def env(kafka_bootstrap: str, redis_url: str) -> dict[str, Any]:
    made = {"kafka": kafka_bootstrap, "redis": redis_url, "partitions": str(PARTITIONS), "demo": "1"}
    run_async(topics.create(load({f"TRACKER_{k.upper()}": v for k, v in made.items()})))
    return made


def test_a_healthy_stack_has_no_problems(env: dict[str, Any]) -> None:
    done = cli("doctor", **env)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "everything is as it should be"
    for part in ("Python 3.", "Kafka 127.0.0.1", "topics, 8 partitions", "noeviction", "appendonly yes", "clock"):
        assert part in done.stdout
    assert all(line.startswith("ok ") for line in done.stdout.splitlines()[:-1])


async def test_settings_of_redis_that_lose_state_are_named_with_the_command_that_helps(env: dict[str, Any]) -> None:
    with Redis.from_url(env["redis"]) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendfsync", "no")
        try:
            done = await asyncio.to_thread(lambda: cli("doctor", **env))
            redis.config_set("maxmemory", 1 << 40)  # without a limit nothing is evicted, whatever the policy
            worker = await asyncio.to_thread(lambda: cli("worker", **env, worker_port=0))
        finally:
            redis.config_set("maxmemory", 0)
            redis.config_set("maxmemory-policy", "noeviction")
            redis.config_set("appendfsync", "everysec")
    assert done.returncode == 1
    assert "problem Redis maxmemory-policy allkeys-lru: CONFIG SET maxmemory-policy noeviction" in done.stdout
    assert "problem Redis appendfsync no: CONFIG SET appendfsync everysec" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 problems"
    assert_one_line(worker, 1, "Redis may evict state (maxmemory-policy allkeys-lru)", "noeviction")


def test_another_number_of_partitions_is_a_problem_and_missing_sites_are_told(env: dict[str, Any]) -> None:
    done = cli("doctor", **{**env, "partitions": "16", "demo": "0"})
    assert done.returncode == 1
    assert "tracker.events.v1 has 8 partitions instead of 16: set TRACKER_PARTITIONS=8" in done.stdout
    assert "sites: none but the demo's" in done.stdout


def test_the_state_of_the_spool_is_told(env: dict[str, Any], tmp_path: Path) -> None:
    assert "ok      spool data/spool: empty" in cli("doctor", cwd=tmp_path, **env).stdout
    folder = tmp_path / "data/spool/0"
    folder.mkdir(parents=True)
    (folder / "000000000001.spool").write_bytes(b"x" * 5000)
    done = cli("doctor", cwd=tmp_path, **env)
    assert "ok      spool data/spool: 4 KB wait for Kafka" in done.stdout
    assert done.returncode == 0
    (folder / "000000000001-16.corrupt").write_bytes(b"x" * 70)
    done = cli("doctor", cwd=tmp_path, **env, spool_max_bytes=1 << 50)
    assert "problem spool: 1 places could not be sent, 70 bytes: look at" in done.stdout
    assert "lower TRACKER_SPOOL_MAX_BYTES" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 problems"
    done = cli("doctor", cwd=tmp_path, **env, spool_dir=tmp_path / "data/spool/0/000000000001.spool")
    assert "set TRACKER_SPOOL_DIR to a folder that the endpoint may write to" in done.stdout
    assert "ok      spool: off" in cli("doctor", cwd=tmp_path, **env, spool_dir="").stdout


def test_servers_that_do_not_answer_are_problems_not_tracebacks(env: dict[str, Any]) -> None:
    done = cli("doctor", kafka="127.0.0.1:1", redis="redis://:geheim@127.0.0.1:1/0")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "problem Kafka: no Kafka answers at 127.0.0.1:1" in done.stdout
    assert "problem Redis 127.0.0.1:1/0: " in done.stdout
    assert "geheim" not in done.stdout


HOOKS = """
[[webhooks]]
name = "nobody"
url = "https://203.113.0.1/in"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

[[webhooks]]
name = "inside"
url = "https://10.1.2.3/in"
secret = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"]
paused = true

[[webhooks]]
name = "served"
url = "https://10.1.2.3/in"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
allow_private = true
"""


async def test_webhooks_that_nothing_is_delivered_to_are_found(env: dict[str, Any], tmp_path: Path) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    from tracker.contract.topics import WEBHOOK_REPLAYS

    config = tmp_path / "tracker.toml"
    config.write_text(HOOKS)
    config.chmod(0o600)
    group = f"doctor-{tmp_path.name}"
    at = {"bootstrap_servers": env["kafka"]}
    async with AIOKafkaConsumer(WEBHOOK_REPLAYS, group_id=f"{group}-served", enable_auto_commit=False, **at) as member:
        (partition,) = member.assignment()
        await member.commit({partition: await member.position(partition)})
        async with AIOKafkaProducer(**at) as producer:
            for _ in range(3):
                await producer.send_and_wait(WEBHOOK_REPLAYS, b"{}", key=b"other")
        done = await asyncio.to_thread(lambda: cli("doctor", **env, config=config, webhook_group=group))
    lines = [line for line in done.stdout.splitlines() if " webhook " in line]
    assert lines == [
        "ok      webhook nobody: 203.113.0.1, 1 secret",
        "problem webhook inside: 10.1.2.3, 2 secrets: 10.1.2.3 is a private or reserved address, nothing is sent "
        "there: set allow_private = true if it is an endpoint of your own network",
        "ok      webhook served: 10.1.2.3, 1 secret",
        "ok      webhook inside: paused, what comes waits in Kafka",
        "problem webhook nobody: it has never been delivered to, and nobody delivers for it: start `tracker webhooks "
        "deliver`",
        "ok      webhook served: 3 triggers wait",
    ]
    assert done.returncode == 1
    assert "whsec_" not in done.stdout
