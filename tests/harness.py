"""The real stack for tests: Kafka, Redis, endpoint, worker as processes on free ports, and helpers that wait.

Every process is ended by whoever started it, also when a test fails, and dies with the test run when that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import inspect
import itertools
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, TopicPartition
from redis import Redis

from tracker.cli import topics
from tracker.cli.up import ready
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_SECRET_KEY, DEMO_WRITE_KEY, Settings
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, free_port, port_problem, wait_until

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
SITES = 55
PARTITIONS = 8


@dataclass(frozen=True)
class Site:
    name: str
    write_key: str
    secret_key: str


DEMO = Site("demo", DEMO_WRITE_KEY, DEMO_SECRET_KEY)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to its end in a thread: works in sync fixtures and inside a running loop alike (it blocks both)."""
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(coroutine))
        except BaseException as e:
            error.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def in_thread(fn: Callable[[], T]) -> T:
    """A function that uses asyncio.run itself, from wherever."""

    async def call() -> T:
        return await asyncio.to_thread(fn)

    return run_async(call())


@overload
async def eventually(fn: Callable[[], Awaitable[T]], timeout_s: float = ..., every_s: float = ...) -> T: ...
@overload
async def eventually(fn: Callable[[], T], timeout_s: float = ..., every_s: float = ...) -> T: ...
async def eventually(fn: Callable[[], T | Awaitable[T]], timeout_s: float = 60.0, every_s: float = 0.1) -> T:
    """Call `fn` (plain or async) until it returns something true without AssertionError; that is the result.

    After `timeout_s` seconds the last AssertionError, or one that tells the last value, is raised.
    """
    end = time.monotonic() + timeout_s
    while True:
        last: AssertionError
        try:
            value = fn()
            result: T = await value if inspect.isawaitable(value) else value
            if result:
                return result
            last = AssertionError(f"still {result!r} after {timeout_s} s")
        except AssertionError as e:
            last = e
        if time.monotonic() > end:
            raise last
        await asyncio.sleep(every_s)


@dataclass
class Servers:
    """A Kafka and a Redis: of others (children empty), or embedded ones that this run started."""

    kafka: str
    redis: str
    children: dict[str, Child] = field(default_factory=dict)

    def stop(self) -> None:
        for child in reversed(self.children.values()):
            child.stop()


def embedded_kafka(folder: Path, heap_mb: int = 384) -> tuple[str, Child]:
    """A fresh embedded broker in `folder`, answering. Raises PartError."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    child = kafka.broker(folder / "kafka", port, heap_mb, folder / "kafka.log").start()
    return f"127.0.0.1:{port}", await_kafka(child, f"127.0.0.1:{port}")


def await_kafka(child: Child, bootstrap: str) -> Child:
    try:
        wait_until(lambda: in_thread(lambda: kafka.answers(bootstrap)), [child], 90, "Kafka")
    except BaseException:
        child.stop()
        raise
    return child


def embedded_redis(folder: Path) -> tuple[str, Child]:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    child = redis.server(folder / "redis", port, folder / "redis.log").start()
    return f"redis://127.0.0.1:{port}/0", await_redis(child, f"redis://127.0.0.1:{port}/0")


@dataclass
class Cluster:
    """A Redis Cluster: `url` for the setting `redis`, its servers by name: `children["redis-0"]` ..."""

    url: str
    children: dict[str, Child]
    ports: list[int]

    def stop(self) -> None:
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            child.stop()


def embedded_cluster(folder: Path, primaries: int = 3, replicas: int = 0, node_timeout_ms: int = 2000) -> Cluster:
    """A fresh Redis Cluster with its slots dealt out evenly; server primaries + n is a replica of n % primaries.

    Raises PartError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    more = f"cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout {node_timeout_ms}\n"
    ports = cluster_ports(primaries + replicas)
    cluster = Cluster("redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports), {}, ports)
    try:
        for n, port in enumerate(ports):
            name = f"redis-{n}"
            child = redis.server(folder / name, port, folder / f"{name}.log", more=more)
            cluster.children[name] = await_redis(child.start(), f"redis://127.0.0.1:{port}/0")
        _join(cluster, primaries)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _join(cluster: Cluster, primaries: int) -> None:
    servers: list[Any] = [Redis(port=port, decode_responses=True) for port in cluster.ports]
    try:
        share = 16384 // primaries
        for n, server in enumerate(servers):
            if n < primaries:
                last = 16383 if n == primaries - 1 else (n + 1) * share - 1
                server.execute_command("CLUSTER ADDSLOTS", *range(n * share, last + 1))
            server.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        for port in cluster.ports[1:]:
            servers[0].execute_command("CLUSTER MEET", "127.0.0.1", port)

        def told(server: Any, name: str) -> str:
            return str(server.execute_command("CLUSTER INFO").get(name))

        everybody = str(len(servers))
        children = list(cluster.children.values())
        wait_until(
            lambda: all(told(s, "cluster_known_nodes") == everybody for s in servers),
            children,
            30,
            "the cluster",
        )
        ids = [server.execute_command("CLUSTER MYID") for server in servers]
        for n, server in enumerate(servers[primaries:]):
            server.execute_command("CLUSTER REPLICATE", ids[n % primaries])
        wait_until(lambda: all(told(s, "cluster_state") == "ok" for s in servers), children, 30, "the cluster")
        wait_until(
            lambda: all(s.info("replication").get("master_link_status") == "up" for s in servers[primaries:]),
            children,
            30,
            "its replicas",
        )
    finally:
        for server in servers:
            server.close()


class Proxy:
    """A TCP proxy that a test can shut: connections are reset, and refused until it is opened again."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        finally:
            self._writers -= {writer, back}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def cluster_ports(count: int) -> list[int]:
    """Free ports whose bus ports (10,000 higher) are ports and free, too."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port > 55_535:
            port -= 20_000
        if port not in found and not port_problem("127.0.0.1", port) and not port_problem("127.0.0.1", port + 10_000):
            found.append(port)
    return found


def await_redis(child: Child, url: str) -> Child:
    try:
        wait_until(lambda: redis.answers(url), [child], 30, "Redis")
    except BaseException:
        child.stop()
        raise
    return child


class Stack:
    """Topics, `tracker serve` and one `tracker worker` over `servers`. `settings` are what both run with."""

    def __init__(self, folder: Path, servers: Servers, **settings: Any) -> None:
        self.folder, self.servers = folder, servers
        folder.mkdir(parents=True, exist_ok=True)
        run = secrets.token_hex(2)  # servers of others may remember the sites of an earlier run
        self.sites = [
            Site(f"s{i:02}-{run}", f"wk_{run}_{i:02}_write", f"sk_{run}_{i:02}_secret") for i in range(1, SITES + 1)
        ]
        self._fresh = iter(self.sites[1:])  # the first is everybody's
        self.config = folder / "tracker.toml"
        self.config.write_text(
            "".join(
                f'[sites.{s.name}]\nwrite_key = "{s.write_key}"\nsecret_key = "{s.secret_key}"\n' for s in self.sites
            ),
            "utf-8",
        )
        chosen = {
            "kafka": servers.kafka, "redis": servers.redis, "http_port": free_port(), "worker_port": free_port(),
            "webhook_port": free_port(),
            "partitions": PARTITIONS, "demo": True, "cart_idle_s": 5, "checkout_idle_s": 5, "payment_idle_s": 5,
            "worker_id": f"worker-{run}", "group": f"tracker-{run}", **settings,
        }  # fmt: skip
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
        self.env |= {f"TRACKER_{name.upper()}": str(value) for name, value in chosen.items()}
        self.env |= {"TRACKER_CONFIG": str(self.config), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.env["TMPDIR"] = str(self.temporary)
        self.settings: Settings = load(self.env)
        self.endpoint = self.command("endpoint", "serve")
        self.worker = self.command("worker", "worker")
        self.others: list[Child] = []

    @property
    def http(self) -> str:
        """Base URL of the endpoint."""
        return f"http://127.0.0.1:{self.settings.http_port}"

    @property
    def worker_http(self) -> str:
        return f"http://127.0.0.1:{self.settings.worker_port}"

    def site(self) -> Site:
        """A site that no other test has used."""
        site = next(self._fresh, None)
        assert site is not None, f"more than {SITES} sites asked for: raise SITES in tests/harness.py"
        return site

    # -- processes

    def command(self, name: str, *args: str, **env: Any) -> Child:
        """`tracker ARGS` with the stack's settings, not started; `env` as settings' names."""
        own = {f"TRACKER_{key.upper()}": str(value) for key, value in env.items()}
        argv = [sys.executable, "-m", "tracker.cli", *args]
        return Child(name, argv, self.folder / f"{name}.log", env=self.env | own, cwd=self.folder, grace_s=20)

    def start(self) -> Stack:
        try:
            run_async(topics.create(self.settings))
            self.endpoint.start()
            self.worker.start()
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def await_ready(self, timeout_s: float = 60) -> None:
        """Until the endpoint and the worker say that they are ready. Raises PartError with the reason."""
        wait_until(lambda: ready("127.0.0.1", self.settings.http_port), [self.endpoint], timeout_s, "the endpoint")
        wait_until(lambda: ready("127.0.0.1", self.settings.worker_port), [self.worker], timeout_s, "the worker")

    def add_worker(self, worker_id: str, **settings: Any) -> Child:
        """One more worker, started and ready, with `settings` of its own; ended with the stack."""
        port = settings.setdefault("worker_port", free_port())
        child = self.command(worker_id, "worker", worker_id=worker_id, **settings).start()
        self.others.append(child)
        wait_until(lambda: ready("127.0.0.1", port), [child], 60, worker_id)
        return child

    def stop(self) -> None:
        for child in (self.endpoint, self.worker, *self.others):
            child.terminate()
        for child in (self.endpoint, self.worker, *self.others):
            child.stop()

    # -- HTTP

    async def request(
        self, method: str, path: str, body: Any = None, key: str | None = None, bearer: str | None = None
    ) -> tuple[int, Any]:
        """(status, JSON or text). `key`: write key as Basic user name. `bearer`: secret key."""
        return await asyncio.to_thread(request, method, self.http + path, body, key, bearer)

    async def send(self, site: Site, *messages: Mapping[str, Any]) -> None:
        """The messages as one batch of `site`; they are acked when this returns."""
        status, answer = await self.request("POST", "/v1/batch", {"batch": messages}, key=site.write_key)
        assert status == 200, (status, answer)
        assert answer["success"] is True, answer

    # -- Kafka

    async def consume(
        self,
        topic: str,
        count: int = 1,
        *,
        site: Site | str | None = None,
        match: Callable[[dict[str, Any]], bool] = lambda value: True,
        timeout_s: float = 20.0,
    ) -> list[dict[str, Any]]:
        """The first `count` JSON values of `topic`, from its start, that are of `site` and that `match` accepts.

        Comes back with fewer when `timeout_s` seconds are over: the caller compares.
        """
        wanted = site.name if isinstance(site, Site) else site
        found: list[dict[str, Any]] = []
        end = time.monotonic() + timeout_s
        async with topics.admin(self.settings.kafka) as client:
            (described,) = await client.describe_topics([topic])
        partitions = [TopicPartition(topic, p["partition"]) for p in described["partitions"]]
        assert partitions, f"there is no topic {topic}"
        async with AIOKafkaConsumer(bootstrap_servers=self.settings.kafka, enable_auto_commit=False) as consumer:
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            while len(found) < count and time.monotonic() < end:
                batches = await consumer.getmany(timeout_ms=200)
                for record in itertools.chain.from_iterable(batches.values()):
                    try:
                        value = json.loads(record.value)
                    except ValueError:
                        continue  # some tests write poison
                    if (wanted is None or value.get("site") == wanted) and match(value):
                        found.append(value)
        return found[:count]


def request(
    method: str, url: str, body: Any = None, key: str | None = None, bearer: str | None = None, timeout_s: float = 15
) -> tuple[int, Any]:
    import base64

    parts = urlsplit(url)
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), data, headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json and text else text


def cli(*args: str, timeout_s: float = 60, cwd: Path | None = None, **env: Any) -> subprocess.CompletedProcess[str]:
    """`tracker ARGS` to its end, with `env` as settings' names (kafka=...), and no settings of the machine."""
    return subprocess.run(
        [sys.executable, "-m", "tracker.cli", *args],
        env=cli_env(**env), cwd=cwd or ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def cli_env(**env: Any) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    plain |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}
    return plain | {f"TRACKER_{name.upper()}": str(value) for name, value in env.items()}


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """It failed with one line on stderr, no traceback, and the line has `parts`."""
    assert done.returncode == code, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
