"""What an event costs in the endpoint: the process of `tracker serve` against a real Kafka, this process as its client.

    python -m bench endpoint [--kafka HOST:PORT] [--seconds 3] [--rounds 5] [--rate 2000] [--events N]

Three servers take turns in every round: the endpoint as it ships, and two that do the least (bench/forwarders.py), in
plain ASGI and as FastAPI routes. Requests of 1 and of 20 events, once as fast as they are answered and once at a fixed
rate, where a request's latency counts from when it was due. Printed are medians of the rounds and their spread: CPU
time of the server by its process's own clock, events/s, latencies, and the cost as a ratio of the plain ASGI server's.
At the end: what an event costs by step of the intake, in this process, without HTTP and Kafka.

--events N instead sends N events to the endpoint and prints its resident memory on the way.
Without --kafka it starts an embedded broker; with it, that broker gets this run's events, of the site `demo`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import uvloop
from rich.progress import track

from tracker.cli import topics
from tracker.cli.up import ready
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_SITE, DEMO_WRITE_KEY
from tracker.embedded import kafka
from tracker.embedded.process import free_port, wait_until
from tracker.intake import STEPS, VISITOR_STEPS, Call, Draft, read_event
from tracker.intake.draft import Visitor

ROOT = Path(__file__).parent.parent
CONNECTIONS = 256
BODIES = 3000
"""More than the contexts that the endpoint remembers: each is of another visitor on another page."""
WARM_UP_S = 1.0


class Run(NamedTuple):
    events: int
    wall_s: float
    cpu_s: float
    latencies_ms: list[float]


SERVERS: dict[str, tuple[str, ...]] = {
    "endpoint": ("tracker.cli", "serve"),
    "asgi": ("bench.forwarders", "asgi"),
    "asgi-own": ("bench.forwarders", "asgi-own"),
    "fastapi": ("bench.forwarders", "fastapi"),
}
"""Name -> what `python -m` runs; the forwarders get port and broker as arguments."""


def event(n: int, visitor: int) -> dict[str, object]:
    """A product view as the snippet sends it, about 650 bytes. All events of a visitor are of one page view."""
    page = f"/products/round-neck-shirt-{visitor}"
    return {
        "messageId": f"bench-{os.getpid()}-{n:012d}",
        "type": "track",
        "event": "Product Viewed",
        "anonymousId": f"7d0c9b1e-58a4-4b93-8b9a-{visitor:012d}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime()),
        "properties": {
            "product_id": f"sku-{n % 300}", "name": "Áo thun cổ tròn", "price": 199000, "quantity": 1,
            "currency": "VND", "category": "shirts", "url": f"https://shop.example{page}",
        },
        "context": {
            "page": {"path": page, "url": f"https://shop.example{page}", "title": "Áo", "referrer": "", "search": ""},
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            f"Chrome/{100 + visitor % 41}.0.0.0 Safari/537.36",
            "locale": "vi-VN", "library": {"name": "t.js", "version": "0.1.0"},
        },
    }  # fmt: skip


def requests(per_request: int) -> list[bytes]:
    """Whole HTTP requests, each of another visitor."""
    found = []
    for i in range(BODIES):
        sent_at = time.strftime("%Y-%m-%dT%H:%M:%S.456Z", time.gmtime())
        if per_request == 1:
            path, body = (
                "/v1/track",
                json.dumps(event(i, i) | {"sentAt": sent_at, "writeKey": DEMO_WRITE_KEY}, ensure_ascii=False),
            )
        else:
            items = [event(i * per_request + k, i) for k in range(per_request)]
            path, body = (
                "/v1/batch",
                json.dumps({"sentAt": sent_at, "writeKey": DEMO_WRITE_KEY, "batch": items}, ensure_ascii=False),
            )
        data = body.encode()
        found.append(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                     % (path.encode(), len(data), data))  # fmt: skip
    return found


class Load:
    """Requests over CONNECTIONS connections; each connection has one request under way."""

    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies = itertools.cycle(bodies)
        self.idle: deque[Connection] = deque()
        self.due_s: deque[float] = deque()
        """When requests were due that no connection was free for."""
        self.endless = False
        self.done = 0
        self.latencies_ms: list[float] = []
        self.failure = ""

    def answered(self, connection: Connection) -> None:
        now_s = time.perf_counter()
        self.done += 1
        self.latencies_ms.append((now_s - connection.due_s) * 1000)
        if self.endless:
            connection.send(next(self._bodies), now_s)
        elif self.due_s:
            connection.send(next(self._bodies), self.due_s.popleft())
        else:
            self.idle.append(connection)

    def request(self, due_s: float) -> None:
        if self.idle:
            self.idle.popleft().send(next(self._bodies), due_s)
        else:
            self.due_s.append(due_s)

    async def at_rate(self, rate: float, until_s: float) -> None:
        due_s = time.perf_counter()
        while (now_s := time.perf_counter()) < until_s:
            while due_s <= now_s:
                self.request(due_s)
                due_s += 1 / rate
            await asyncio.sleep(max(0.0, due_s - now_s))

    def saturate(self) -> None:
        self.endless = True
        while self.idle:
            self.request(time.perf_counter())


class Connection(asyncio.Protocol):
    due_s = 0.0

    def __init__(self, load: Load) -> None:
        self._load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._load.idle.append(self)

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b'{"success":true}'):
            self._load.answered(self)
        elif not data.startswith(b"HTTP/1.1 200"):  # a head alone: its body follows
            self._load.failure = data.decode("utf-8", "replace")
            self.transport.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, by its own clock (its id: clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


async def load_for(port: int, pid: int, bodies: list[bytes], per_request: int, seconds: float, rate: float) -> Run:
    """`rate`: requests/s; 0: as fast as they are answered."""
    load = Load(bodies)
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    connections = list(load.idle)
    until_s = time.perf_counter() + WARM_UP_S + seconds
    if rate:
        sending = asyncio.create_task(load.at_rate(rate, until_s))
    else:
        load.saturate()
    await asyncio.sleep(WARM_UP_S)
    load.latencies_ms = []
    done, cpu, at_s = load.done, cpu_s(pid), time.perf_counter()
    await asyncio.sleep(until_s - at_s)
    run = Run((load.done - done) * per_request, time.perf_counter() - at_s, cpu_s(pid) - cpu, load.latencies_ms)
    if rate:
        await sending
    for connection in connections:
        connection.transport.abort()
    if load.failure:
        raise SystemExit(f"bench: the server answered: {load.failure}")
    return run


@contextmanager
def serving(name: str, bootstrap: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
    env |= {"TRACKER_KAFKA": bootstrap, "TRACKER_HTTP_PORT": str(port), "TRACKER_DEMO": "true"}
    module, *arguments = SERVERS[name]
    if module == "bench.forwarders":
        arguments += [str(port), bootstrap]
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=env, cwd=ROOT)
    try:
        wait_until(lambda: ready("127.0.0.1", port) or process.poll() is not None, [], 30, name)
        if process.poll() is not None:
            raise SystemExit(f"bench: {name} did not start")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def broker(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        child = kafka.broker(Path(folder), port, 512, Path(folder) / "kafka.log", say=print).start()
        try:
            wait_until(lambda: kafka.answers(f"127.0.0.1:{port}"), [child], 90, "Kafka")
            yield f"127.0.0.1:{port}"
        finally:
            child.stop()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench endpoint", description="CPU and latency of the endpoint.")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker to use; default: an embedded one")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests/s of the rows at a fixed rate")
    parser.add_argument("--events", type=int, default=0, help="only send so many events, and print the memory")
    args = parser.parse_args(argv)
    if not sys.platform.startswith("linux"):
        raise SystemExit("bench: another process's CPU clock is read as Linux has it")
    with broker(args.kafka) as bootstrap:
        asyncio.run(topics.create(load({}, kafka=bootstrap, demo=True)))
        if args.events:
            memory(bootstrap, args.events)
            return
        compare(bootstrap, args.seconds, args.rounds, args.rate)
    found = steps()
    print("us/event by step of the intake, least of 7:", listed(found, ["read_event", *names(STEPS), "all"]))
    print("us/visitor, once for the events of a request that share a context:", listed(found, names(VISITOR_STEPS)))


def compare(bootstrap: str, seconds: float, rounds: int, rate: float) -> None:
    print(f"endpoint, {CONNECTIONS} connections, {rounds} rounds of {seconds:g} s by turns; median (least..most)")
    cases = [(per_request, fixed) for per_request in (1, 20) for fixed in (0.0, rate)]
    runs: dict[tuple[int, float, str], list[Run]] = {}
    bodies = {per_request: requests(per_request) for per_request in (1, 20)}
    with ExitStack() as stack:
        servers = {}
        for name in SERVERS:
            port = free_port()
            servers[name] = (port, stack.enter_context(serving(name, bootstrap, port)).pid)
        turns = list(itertools.product(range(rounds), cases, servers))
        for _, (per_request, fixed), name in track(turns, "endpoint", transient=True):
            run = load_for(*servers[name], bodies[per_request], per_request, seconds, fixed)
            runs.setdefault((per_request, fixed, name), []).append(uvloop.run(run))
    heads = ("server", 8), ("requests/s", 10), ("events each", 11), ("CPU us/request", 22), ("CPU us/event", 21)
    more = ("x asgi", 19), ("events/s", 24), ("p50 ms", 7), ("p99 ms", 7)
    print(" ".join(f"{head:>{width}}" for head, width in (*heads, *more)))
    for (per_request, fixed, name), of_it in sorted(runs.items(), key=lambda item: item[0][:2]):
        print(row(name, per_request, fixed, of_it, runs[per_request, fixed, "asgi"]))


def row(name: str, per_request: int, fixed: float, runs: list[Run], bare: list[Run]) -> str:
    by_event = [run.cpu_s / run.events * 1e6 for run in runs]
    ratios = [mine / (run.cpu_s / run.events * 1e6) for mine, run in zip(by_event, bare, strict=True)]
    rates = [run.events / run.wall_s for run in runs]
    all_ms = sorted(ms for run in runs for ms in run.latencies_ms)
    return (
        f"{name:>8} {f'{fixed:,.0f}' if fixed else 'all':>10} {per_request:>11}"
        f" {spread([x * per_request for x in by_event]):>22} {spread(by_event):>21} {spread(ratios, 2):>19}"
        f" {spread(rates, 0):>24} {all_ms[len(all_ms) // 2]:>7.1f} {all_ms[len(all_ms) * 99 // 100]:>7.1f}"
    )


def memory(bootstrap: str, events: int) -> None:
    """Resident memory of the endpoint while it takes so many events, 20 a request."""
    port, bodies = free_port(), requests(20)
    with serving("endpoint", bootstrap, port) as server:
        print(f"{'events':>12} {'resident MB':>12} {'most MB':>9}")
        sent = 0
        while True:
            print(
                f"{sent:>12,} {resident_mb(server.pid, 'VmRSS'):>12.1f} {resident_mb(server.pid, 'VmHWM'):>9.1f}",
                flush=True,
            )
            if sent >= events:
                return
            upto = min(events, max(100_000, sent * 2))
            while sent < upto:
                sent += uvloop.run(load_for(port, server.pid, bodies, 20, 5.0, 0.0)).events


def resident_mb(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def steps(events: int = 2000) -> dict[str, float]:
    """Least time an event takes in each step, us; `put_visitor` has what the visitor steps found for the one before."""
    call = Call(DEMO_SITE, "client", time.time_ns() // 1_000_000, lambda: "made", 32 * 1024)
    originals = [json.dumps(event(i, i // 20), ensure_ascii=False).encode() for i in range(events)]
    least: dict[str, float] = {}

    def timed(step: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        began_ns = time.perf_counter_ns()
        found = [step(*each) for each in arguments]
        us = (time.perf_counter_ns() - began_ns) / len(arguments) / 1000
        least[step.__name__] = min(least.get(step.__name__, us), us)
        return found

    for _ in range(7):
        drafts = [Draft(wire) for wire in timed(read_event, [(original, 32 * 1024) for original in originals])]
        for step in STEPS:
            if any(timed(step, [(draft, call) for draft in drafts])):
                raise SystemExit("bench: an event was refused")
    least["all"] = sum(least.values())
    for _ in range(7):
        visitors = [Visitor(draft.visitor.context) for draft in drafts]
        for visitor_step in VISITOR_STEPS:
            timed(visitor_step, [(visitor, call) for visitor in visitors])
    return least


def names(steps: Sequence[Callable[..., object]]) -> list[str]:
    return [step.__name__ for step in steps]


def listed(found: dict[str, float], wanted: list[str]) -> str:
    return ", ".join(f"{name} {found[name]:.2f}" for name in wanted)


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"
