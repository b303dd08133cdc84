"""CPU us an event and events/s of a worker (both hops, all signals, publishing), beside stock Faust doing nothing.

The worker is stopped (SIGSTOP) while the events are written and goes on (SIGCONT) with all of them in the log; CPU is
the process's own clock, user and system, all threads. Redis's CPU is measured the same way and printed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.endpoint import cpu_s
from bench.load import produce
from tracker.cli.topics import create
from tracker.contract.settings import load
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, free_port, wait_until

PARTITIONS = 64
COUNT = 200_000
VISITORS = 20_000


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
            "TRACKER_KAFKA": bootstrap, "TRACKER_REDIS": url, "TRACKER_PARTITIONS": str(PARTITIONS),
            "TRACKER_DEMO": "1", "TRACKER_SESSION_TIMEOUT_S": "60", "TRACKER_WORKER_PORT": str(free_port()),
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
            wait_for(lambda: metric(port, 'stream_events_total{hop="signals"}') >= count, 300.0, every_s=0.5)
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


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m bench worker", description=__doc__).parse_args(argv)
    print(f"worker: {COUNT:,} events of {VISITORS:,} visitors, {PARTITIONS} partitions")
    result = worker(COUNT, VISITORS)
    n, stock = result["events"], result["stock"]
    rate, stock_rate = n / result["wall_s"], stock["events"] / stock["wall_s"]
    print(f"{'':<46} {'CPU us/event':>14} {'events/s':>10}")
    for what, cpu, speed in (
        ("both hops, identity, counters, all signals", result["cpu_s"] / n, rate),
        ("  Redis's own CPU beside it", result["redis_cpu_s"] / n, rate),
        ("stock Faust, reading the same topic only", stock["cpu_s"] / stock["events"], stock_rate),
    ):
        print(f"{what:<46} {cpu * 1e6:>14.1f} {speed:>10,.0f}")
    print(f"{'worker against stock Faust':<46} {'':>14} {rate / stock_rate:>9.1f}x", flush=True)
