"""What the benchmarks of the stream run: a fresh Kafka and Redis, and workers of this project as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from stream.signals import SIGNALS
from stream.signals.base import DECIDING
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, free_port, wait_until

ASK_S: Final = 1.0
"""How often a worker is asked how far it is: to tell costs it 20 ms."""
ALL_BUT_CARTS: Final = ",".join(s.name for s in SIGNALS if s.name not in {"cart", *DECIDING})
"""For the setting `signals_off`."""


class Servers(NamedTuple):
    bootstrap: str
    redis: str
    kafka_pid: int
    redis_pid: int


@contextmanager
def servers() -> Iterator[Servers]:
    """A fresh Kafka and Redis."""
    with TemporaryDirectory(prefix="tracker-bench-") as folder:
        base, parts = Path(folder), []
        try:
            kafka_port, redis_port = free_port(), free_port()
            broker: Child = kafka.broker(base / "kafka", kafka_port, 1024, base / "kafka.log")
            parts.append(broker.start())
            store: Child = redis.server(base / "redis", redis_port, base / "redis.log")
            parts.append(store.start())
            bootstrap, url = f"127.0.0.1:{kafka_port}", f"redis://127.0.0.1:{redis_port}/0"
            wait_until(lambda: kafka.answers(bootstrap) and redis.answers(url), parts, 60.0, "Kafka and Redis")
            yield Servers(bootstrap, url, broker.pid, store.pid)
        finally:
            for part in reversed(parts):
                part.stop()


def settings_of(on: Servers, partitions: int) -> dict[str, str]:
    """The environment of a worker on these servers; each worker needs a port and an id of its own besides."""
    return {
        "TRACKER_KAFKA": on.bootstrap, "TRACKER_REDIS": on.redis, "TRACKER_PARTITIONS": str(partitions),
        "TRACKER_DEMO": "1", "TRACKER_SESSION_TIMEOUT_S": "60",
    }  # fmt: skip


class Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.rpartition(" ")[2])
        return 0.0

    def events(self) -> float:
        """Events whose effects are in Redis."""
        return self.metric('stream_events_total{hop="signals"}')

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def workers(env: Mapping[str, str], number: int = 1) -> Iterator[list[Worker]]:
    """`tracker worker` so many times; ready or not (`wait_for`)."""
    running: list[Worker] = []
    try:
        for i in range(number):
            port = free_port()
            own = {"TRACKER_WORKER_PORT": str(port), "TRACKER_WORKER_ID": f"bench-{os.getpid()}-{i}"}
            process = subprocess.Popen(
                [sys.executable, "-m", "tracker.cli", "worker"],
                env={k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")} | dict(env) | own,
                stderr=subprocess.DEVNULL,
            )
            running.append(Worker(process, port))
        yield running
    finally:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            ended(worker.process)


def ended(process: subprocess.Popen[bytes], grace_s: float = 15.0) -> None:
    """Wait for a process that was told to end; kill it after `grace_s`."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(check: Callable[[], object], limit_s: float, every_s: float = 0.1) -> None:
    until = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > until:
            raise TimeoutError(f"nothing after {limit_s:.0f} s")
        time.sleep(every_s)
