"""Kafka and Redis for the tests, the first of these that is there:

1. TEST_KAFKA_BOOTSTRAP, TEST_REDIS_URL: servers that run
2. a Docker daemon that answers: containers
3. the embedded ones (tracker/embedded)

None: the tests that need them are skipped, or fail where REQUIRE_INTEGRATION=1 is set (as in .ci/run).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from tests.harness import Cluster, Servers, Stack, embedded_cluster, embedded_kafka, embedded_redis, in_thread
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, PartError, free_port, wait_until

hypothesis.settings.register_profile("tests", deadline=None)  # The machine may do something else meanwhile.
hypothesis.settings.load_profile("tests")

KAFKA_IMAGE = "apache/kafka:4.3.1"
REDIS_IMAGE = "redis:7.2.11-alpine"


def missing(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_INTEGRATION") == "1":
        pytest.fail(f"REQUIRE_INTEGRATION=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_answers() -> bool:
    """A daemon, not only the command. (The SDK leaves its socket open when there is none, and warnings are errors.)"""
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.fixture(scope="session")
def kafka_bootstrap(docker_answers: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("TEST_KAFKA_BOOTSTRAP"):
        if not in_thread(lambda: kafka.answers(given, 10)):
            pytest.fail(f"TEST_KAFKA_BOOTSTRAP: no Kafka answers at {given}")
        yield given
    elif docker_answers:
        with kafka_container() as bootstrap:
            yield bootstrap
    else:
        with embedded(embedded_kafka, tmp_path_factory.mktemp("kafka")) as bootstrap:
            yield bootstrap


@pytest.fixture(scope="session")
def redis_url(docker_answers: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("TEST_REDIS_URL"):
        if not redis.answers(given, 10):
            pytest.fail(f"TEST_REDIS_URL: no Redis answers at {given}")
        yield given
    elif docker_answers:
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(REDIS_IMAGE).with_exposed_ports(6379)
        container.with_command("redis-server --appendonly yes --maxmemory-policy noeviction")
        with container:
            url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
            wait_until(lambda: redis.answers(url), [], 60, "Redis in Docker")
            yield url
    else:
        with embedded(embedded_redis, tmp_path_factory.mktemp("redis")) as url:
            yield url


@contextmanager
def embedded(start: Callable[[Path], tuple[str, Child]], folder: Path) -> Iterator[str]:
    """The address of a server of its own, until the end; without the server's parts the test is skipped."""
    try:
        address, child = start(folder)
    except PartError as e:
        missing(str(e))
    try:
        yield address
    finally:
        child.stop()


@contextmanager
def kafka_container() -> Iterator[str]:
    """apache/kafka in KRaft mode. Clients go by the advertised address, so its port is chosen before it starts."""
    from testcontainers.core.container import DockerContainer

    port = free_port()
    bootstrap = f"127.0.0.1:{port}"
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    for name, value in {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://{bootstrap}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        container.with_env(f"KAFKA_{name}", value)
    with container:
        wait_until(lambda: in_thread(lambda: kafka.answers(bootstrap)), [], 90, "Kafka in Docker")
        yield bootstrap


@pytest.fixture(scope="session")
def stack(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One endpoint and one worker for all tests that don't break them; `stack.site()` is a site of one's own."""
    servers = Servers(kafka_bootstrap, redis_url)
    stack = Stack(tmp_path_factory.mktemp("stack"), servers, fit_check_s=1).start()
    try:
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[Callable[[], Servers]]:
    """Makes a Kafka and a Redis that a test may kill: `servers.children["kafka"]`, `["redis"]`."""
    made: list[Servers] = []

    def make() -> Servers:
        folder = tmp_path / f"servers-{len(made)}"
        servers = Servers("", "")
        made.append(servers)
        try:
            servers.redis, servers.children["redis"] = embedded_redis(folder)
            servers.kafka, servers.children["kafka"] = embedded_kafka(folder)
        except PartError as e:
            missing(str(e))
        return servers

    try:
        yield make
    finally:
        for servers in made:
            servers.stop()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a Redis Cluster that a test may kill parts of: own_cluster(primaries=3, replicas=0). Its `url` is for the
    setting `redis`; `Servers(kafka, cluster.url)` makes a stack over it."""
    made: list[Cluster] = []

    def make(**how: int) -> Cluster:
        try:
            made.append(embedded_cluster(tmp_path / f"cluster-{len(made)}", **how))
        except PartError as e:
            missing(str(e))
        return made[-1]

    try:
        yield make
    finally:
        for cluster in made:
            cluster.stop()


@pytest.fixture
def own_stack(tmp_path: Path, own_servers: Callable[[], Servers]) -> Iterator[Callable[..., Stack]]:
    """Makes a whole stack that a test may kill parts of, with settings as keywords: own_stack(cart_idle_s=1)."""
    made: list[Stack] = []

    def make(**settings: Any) -> Stack:
        stack = Stack(tmp_path / f"stack-{len(made)}", own_servers(), **settings)
        made.append(stack)
        return stack.start()

    try:
        yield make
    finally:
        for stack in made:
            stack.stop()
