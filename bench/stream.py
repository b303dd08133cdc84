"""CPU us an event and events/s of a worker (both hops, all signals, publishing), beside stock Faust doing nothing.

The worker is stopped (SIGSTOP) while the events are written and goes on (SIGCONT) with all of them in the log; CPU is
the process's own clock, user and system, all threads. Redis's CPU is measured the same way and printed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.endpoint import cpu_s
from bench.load import events, produce
from bench.running import ALL_BUT_CARTS, ASK_S, servers, settings_of, wait_for, workers
from tracker.cli.topics import create
from tracker.contract.loading import load

PARTITIONS = 64
COUNT = 200_000
VISITORS = 20_000


def worker(count: int, visitors: int, signals_off: str = "") -> dict[str, Any]:
    """CPU and time of a worker without these signals, and of stock Faust after it."""
    with servers() as on:
        env = settings_of(on, PARTITIONS) | {"TRACKER_SIGNALS_OFF": signals_off}
        asyncio.run(create(load(env)))
        with workers(env) as (running,):
            wait_for(running.ready, 60.0)
            time.sleep(2.0)
            running.process.send_signal(signal.SIGSTOP)
            try:
                asyncio.run(produce(on.bootstrap, PARTITIONS, events(count, visitors)))
                before, redis_before, started = cpu_s(running.pid), cpu_s(on.redis_pid), time.perf_counter()
            finally:
                running.process.send_signal(signal.SIGCONT)
            wait_for(lambda: running.events() >= count, 300.0, ASK_S)
            wall_s = time.perf_counter() - started
            result = {
                "events": count, "wall_s": wall_s, "cpu_s": cpu_s(running.pid) - before,
                "redis_cpu_s": cpu_s(on.redis_pid) - redis_before,
            }  # fmt: skip
            stock = subprocess.run(
                [sys.executable, "-m", "bench.stock_faust", on.bootstrap, str(count)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=180, check=False,
            )  # fmt: skip
            result["stock"] = json.loads(stock.stdout.splitlines()[0])
            return result


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench worker", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of each, by turns; the median is printed")
    rounds = parser.parse_args(argv).rounds
    print(f"worker: {COUNT:,} events of {VISITORS:,} visitors, {PARTITIONS} partitions, {rounds} rounds")
    setups = {"identity, counters, carts": ALL_BUT_CARTS, "identity, counters, all signals": ""}
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in setups}
    for _ in range(rounds):
        for what, off in setups.items():
            found[what].append(worker(COUNT, VISITORS, off))
    print(f"{'CPU us/event':<36} {'worker':>8} {'Redis':>8} {'stock':>8} {'x':>8} {'events/s':>10} {'x stock':>8}")
    for what, results in found.items():
        rows = []
        for of in results:
            n, stock = of["events"], of["stock"]
            ours, theirs = of["cpu_s"] / n * 1e6, stock["cpu_s"] / stock["events"] * 1e6
            rate, their_rate = n / of["wall_s"], stock["events"] / stock["wall_s"]
            rows.append((ours, of["redis_cpu_s"] / n * 1e6, theirs, ours / theirs, rate, rate / their_rate))
        us, redis, theirs, of_theirs, rate, faster = map(median, zip(*rows, strict=True))
        print(f"{what:<36} {us:>8.1f} {redis:>8.1f} {theirs:>8.1f} {of_theirs:>8.2f} {rate:>10,.0f} {faster:>8.2f}")
    print("stock: Faust reading the same topic and doing nothing, after each", flush=True)
