"""What the tests of the endpoint share: one of their own as a process, HTTP and raw sockets, what is in Kafka."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import PARTITIONS, ROOT, Servers, Site, run_async
from tracker.cli import topics as topics_command
from tracker.contract.loading import load
from tracker.contract.topics import EVENTS
from tracker.embedded.process import Child, free_port, wait_until

SHOP = Site("shop", "shop-write-key", "shop-secret-key")
"""A site that lists its origins, in the endpoints that a test starts for itself."""
QUIET = Site("quiet", "quiet-write-key", "quiet-secret-key")
"""Another there, which keeps as little as it can."""
CONFIG = """
[sites.shop]
write_key = "shop-write-key"
secret_key = "shop-secret-key"
origins = ["https://shop.example", "https://www.shop.example/"]

[sites.quiet]
write_key = "quiet-write-key"
secret_key = "quiet-secret-key"
ip = "drop"
bots = "drop"
consent = "required"
without_consent = "anonymous"
"""


class Http:
    """One connection that is kept. Answers are (status, headers in lower case, body: JSON where it is JSON)."""

    def __init__(self, port: int, timeout_s: float = 20) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = self.connection.getresponse()
        text = answer.read()
        found = {k.lower(): v for k, v in answer.getheaders()}
        return answer.status, found, json.loads(text) if found.get("content-type") == "application/json" else text

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
        return self.request("POST", path, body, **headers)


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


@contextmanager
def endpoint(folder: Path, kafka: str, redis: str = "redis://127.0.0.1:1/0", **settings: Any) -> Iterator[Child]:
    """`tracker serve` of a test's own, started and listening (`port_of` it), ended with the test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tracker.toml").write_text(CONFIG, "utf-8")
    chosen = {"kafka": kafka, "redis": redis, "http_port": free_port(), "partitions": PARTITIONS, **settings}
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
    env |= {f"TRACKER_{k.upper()}": str(v) for k, v in chosen.items()} | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "tracker.cli", "serve"]
    child = Child("endpoint", argv, folder / "endpoint.log", env=env, cwd=folder, grace_s=20).start()
    try:
        wait_until(lambda: alive(chosen["http_port"]), [child], 30, "the endpoint")
        yield child
    finally:
        child.stop()


def port_of(child: Child) -> int:
    assert child.env is not None
    return int(child.env["TRACKER_HTTP_PORT"])


def alive(port: int) -> bool:
    try:
        with Http(port, 2) as client:
            return client.request("GET", "/livez")[0] == 200
    except OSError:
        return False


def metric(port: int, name: str, **labels: str) -> float:
    """Sum of the samples of `name` that have these labels."""
    with Http(port) as client:
        text = client.request("GET", "/metrics")[2].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def raw(path: str = "/v1/track", body: Any = None, *lines: str, version: str = "1.1") -> bytes:
    message = {"userId": "u", "event": "A", "writeKey": SHOP.write_key} if body is None else body
    data = json.dumps(message).encode()
    head = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(data)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause_s)
        received = b""
        while part := recv(sock):
            received += part
    return received


def recv(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def create_topics(servers: Servers) -> None:
    run_async(topics_command.create(load({}, kafka=servers.kafka, partitions=PARTITIONS)))


async def message_ids(bootstrap: str) -> list[str]:
    """messageIds of every record of the events topic."""
    return [json.loads(value)["messageId"] for value in await values_of(bootstrap)]


async def values_of(bootstrap: str) -> list[bytes]:
    """Every record of the events topic."""
    found: list[bytes] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        where = [TopicPartition(EVENTS, p) for p in range(PARTITIONS)]
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        ends = await consumer.end_offsets(where)
        while any([await consumer.position(tp) < ends[tp] for tp in where]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [record.value for record in records]
    return found
