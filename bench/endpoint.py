"""What an event costs in the endpoint: the process of `tracker serve` against a real Kafka, this process as its client.

    python -m bench.endpoint [--kafka HOST:PORT] [--seconds 5] [--rounds 3]

Prints rows by requests of 1 and of 20 events: CPU time of the server's process (user + system, from /proc), and what
went through in the time; the median of the rounds and their spread. The rows `bare` are the same server with an app
that says yes to everything (bench/endpoint_bare.py): what HTTP costs on this machine at this moment, the rest is ours.
At the end it says what an event costs by step of the intake, in this process, without HTTP and Kafka.
Without --kafka it starts an embedded broker; with it, that broker gets this run's events, of the site `demo`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

from tracker.cli import topics
from tracker.contract.settings import DEMO_SITE, DEMO_WRITE_KEY, load
from tracker.embedded import kafka
from tracker.embedded.process import free_port, wait_until
from tracker.intake import STEPS, Call, Draft

ROOT = Path(__file__).parent.parent
CONNECTIONS = 256
BODIES = 500
WARM_UP_S = 1.0


class Run(NamedTuple):
    events: int
    wall_s: float
    cpu_s: float
    latencies_ms: list[float]


def event(n: int) -> dict[str, object]:
    """A product view as the snippet sends it, about 600 bytes."""
    return {
        "messageId": f"bench-{os.getpid()}-{n:012d}",
        "type": "track",
        "event": "Product Viewed",
        "anonymousId": f"7d0c9b1e-58a4-4b93-8b9a-{n % 5000:012d}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime()),
        "properties": {
            "product_id": f"sku-{n % 300}", "name": "Áo thun cổ tròn", "price": 199000, "quantity": 1,
            "currency": "VND", "category": "shirts", "url": "https://shop.example/products/round-neck-shirt",
        },
        "context": {
            "page": {"path": "/products/round-neck-shirt", "title": "Áo thun", "referrer": "", "search": ""},
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0",
            "locale": "vi-VN", "library": {"name": "t.js", "version": "0.1.0"},
        },
    }  # fmt: skip


def requests(per_request: int) -> list[bytes]:
    """Whole HTTP requests. Twenty events of a request are of one visitor, as a browser's are."""
    found = []
    for i in range(BODIES):
        sent_at = time.strftime("%Y-%m-%dT%H:%M:%S.456Z", time.gmtime())
        if per_request == 1:
            path, body = (
                "/v1/track",
                json.dumps(event(i) | {"sentAt": sent_at, "writeKey": DEMO_WRITE_KEY}, ensure_ascii=False),
            )
        else:
            visitor = event(i)["anonymousId"]
            items = [event(i * per_request + k) | {"anonymousId": visitor} for k in range(per_request)]
            path, body = (
                "/v1/batch",
                json.dumps({"sentAt": sent_at, "writeKey": DEMO_WRITE_KEY, "batch": items}, ensure_ascii=False),
            )
        data = body.encode()
        found.append(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
                     % (path.encode(), len(data), data))  # fmt: skip
    return found


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last one is there."""

    done = 0
    latencies_ms: list[float] = []  # noqa: RUF012  # of all connections
    failure = ""

    def __init__(self, bodies: Iterator[bytes]) -> None:
        self._bodies = bodies

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._next()

    def _next(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._bodies))

    def data_received(self, data: bytes) -> None:
        if not data.endswith(b'{"success":true}'):
            if data.startswith(b"HTTP/1.1 200"):
                return  # head and body in two parts
            Client.failure = data.decode("utf-8", "replace")
            self._transport.close()
            return
        Client.done += 1
        Client.latencies_ms.append((time.perf_counter() - self._sent_s) * 1000)
        self._next()


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load_for(port: int, pid: int, per_request: int, seconds: float) -> Run:
    bodies = requests(per_request)
    count = iter(range(10**12))
    endless = (bodies[i % BODIES] for i in count)
    loop = asyncio.get_running_loop()
    transports = [
        (await loop.create_connection(lambda: Client(endless), "127.0.0.1", port))[0] for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(WARM_UP_S)
    Client.latencies_ms = []
    done, cpu, at_s = Client.done, cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    run = Run((Client.done - done) * per_request, time.perf_counter() - at_s, cpu_s(pid) - cpu, Client.latencies_ms)
    for transport in transports:
        transport.abort()
    if Client.failure:
        raise SystemExit(f"bench: the endpoint answered: {Client.failure}")
    return run


@contextmanager
def serving(bootstrap: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The endpoint, or without `bootstrap` the bare app."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
    env |= {"TRACKER_KAFKA": bootstrap, "TRACKER_HTTP_PORT": str(port), "TRACKER_DEMO": "true"}
    arguments = ["tracker.cli", "serve"] if bootstrap else ["bench.endpoint_bare", str(port)]
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=env, cwd=ROOT)
    try:
        wait_until(lambda: _ready(port) or process.poll() is not None, [], 30, "the endpoint")
        if process.poll() is not None:
            raise SystemExit("bench: the endpoint did not start")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    from tracker.cli.up import ready

    return ready("127.0.0.1", port)


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
    parser = argparse.ArgumentParser(description="CPU time and throughput of the endpoint.")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker to use; default: an embedded one")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    if not Path("/proc/self/stat").exists():
        raise SystemExit("bench: CPU time is read from /proc, which this system lacks")
    with broker(args.kafka) as bootstrap:
        asyncio.run(topics.create(load({}, kafka=bootstrap, demo=True)))
        print(f"endpoint, {CONNECTIONS} connections, {args.rounds} rounds of {args.seconds:g} s; median (least..most)")
        heads = (
            ("", 8),
            ("events/request", 14),
            ("CPU us/request", 24),
            ("CPU us/event", 22),
            ("events/s", 26),
            ("p50 ms", 8),
            ("p99 ms", 8),
        )
        print(" ".join(f"{head:>{width}}" for head, width in heads))
        for per_request in (1, 20):
            for name, kafka_of_it in (("bare", ""), ("endpoint", bootstrap)):
                port = free_port()
                with serving(kafka_of_it, port) as server:
                    runs = [
                        uvloop.run(load_for(port, server.pid, per_request, args.seconds)) for _ in range(args.rounds)
                    ]
                print(row(name, per_request, runs), flush=True)
    print("us/event by step of the intake, least of 7: " + ", ".join(f"{k} {v:.2f}" for k, v in steps().items()))


def steps(events: int = 2000) -> dict[str, float]:
    """Least time an event takes in each step, us."""
    call = Call(DEMO_SITE, "client", time.time_ns() // 1_000_000, lambda: "made", 32 * 1024)
    originals = [json.dumps(event(i), ensure_ascii=False).encode() for i in range(events)]
    least = dict.fromkeys([step.__name__ for step in STEPS], float("inf"))
    for _ in range(7):
        drafts = [Draft(original) for original in originals]
        for step in STEPS:
            began_ns = time.perf_counter_ns()
            for draft in drafts:
                if step(draft, call) is not None:
                    raise SystemExit("bench: an event was refused")
            least[step.__name__] = min(least[step.__name__], (time.perf_counter_ns() - began_ns) / events / 1000)
    return {**least, "all": sum(least.values())}


def row(name: str, per_request: int, runs: list[Run]) -> str:
    by_event = [run.cpu_s / run.events * 1e6 for run in runs]
    rates = [run.events / run.wall_s for run in runs]
    all_ms = sorted(ms for run in runs for ms in run.latencies_ms)
    return (
        f"{name:>8} {per_request:>14} {spread([x * per_request for x in by_event]):>24} {spread(by_event):>22}"
        f" {spread(rates, 0):>26} {all_ms[len(all_ms) // 2]:>8.1f} {all_ms[len(all_ms) * 99 // 100]:>8.1f}"
    )


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
