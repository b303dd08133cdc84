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
from typing import Any

from bench.endpoint import cpu_s
from bench.load import events, produce
from bench.running import servers, settings_of, wait_for, workers
from tracker.cli.topics import create
from tracker.contract.settings import load

PARTITIONS = 64
COUNT = 200_000
VISITORS = 20_000


def worker(count: int, visitors: int) -> dict[str, Any]:
    with servers() as on:
        env = settings_of(on, PARTITIONS)
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
            wait_for(lambda: running.events() >= count, 300.0, every_s=0.5)
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
