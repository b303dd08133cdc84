"""CPU us an event and events/s of a worker (both hops, all signals, publishing), beside stock Faust doing nothing.

The worker is stopped (SIGSTOP) while the events are written and goes on (SIGCONT) with all of them in the log; CPU is
the process's own clock, user and system, all threads. Redis's CPU is measured the same way and printed apart.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.load import produce
from tracker.cli.topics import create
from tracker.contract.settings import load
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, free_port, wait_until

PARTITIONS = 64
TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User + system CPU of a process so far, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def servers() -> Iterator[tuple[str, str, int]]:
    """A fresh Kafka and Redis: (bootstrap, Redis URL, pid of Redis)."""
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
            yield bootstrap, url, store.pid
        finally:
            for part in reversed(parts):
                part.stop()


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
    return 0.0


def worker(count: int, visitors: int) -> dict[str, Any]:
    with servers() as (bootstrap, url, redis_pid):
        env = {
            "TRACKER_KAFKA": bootstrap, "TRACKER_REDIS": url, "TRACKER_PARTITIONS": str(PARTITIONS), "TRACKER_DEMO": "1",
            "TRACKER_SESSION_TIMEOUT_S": "60", "TRACKER_WORKER_PORT": str(free_port()),
        }  # fmt: skip
        settings = load(env)
        asyncio.run(create(settings))
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker.cli", "worker"], env=os.environ | env, stderr=subprocess.DEVNULL
        )
        try:
            port = settings.worker_port
            wait_for(lambda: ready(port), 60.0)
            time.sleep(2.0)
            process.send_signal(signal.SIGSTOP)
            asyncio.run(produce(bootstrap, PARTITIONS, count, visitors))
            before, redis_before, started = cpu_s(process.pid), cpu_s(redis_pid), time.perf_counter()
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: metric(port, 'stream_events_total{hop="signals"}') >= count, 300.0, every_s=0.2)
            wall_s = time.perf_counter() - started
            result = {
                "events": count, "wall_s": wall_s, "cpu_s": cpu_s(process.pid) - before,
                "redis_cpu_s": cpu_s(redis_pid) - redis_before,
            }  # fmt: skip
            stock = subprocess.run(
                [sys.executable, "-m", "bench.stock_faust", bootstrap, str(count)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=180, check=False,
            )  # fmt: skip
            result["stock"] = json.loads(stock.stdout.splitlines()[0])
            return result
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(check: Any, limit_s: float, every_s: float = 0.1) -> None:
    until = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > until:
            raise TimeoutError(f"nothing after {limit_s} s")
        time.sleep(every_s)


def rows(count: int = 100_000, visitors: int = 10_000) -> list[tuple[str, float, float]]:
    """(what, CPU us an event, events/s)."""
    r = worker(count, visitors)
    n = r["events"]
    stock = r["stock"]
    return [
        ("worker: both hops, counters, cart, churn", r["cpu_s"] / n * 1e6, n / r["wall_s"]),
        ("  Redis's own CPU beside it", r["redis_cpu_s"] / n * 1e6, n / r["wall_s"]),
        ("stock Faust, reading only", stock["cpu_s"] / stock["events"] * 1e6, stock["events"] / stock["wall_s"]),
    ]
