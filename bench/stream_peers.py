"""This project's engine beside other stream engines, by turns in one run on the same records of tracker.events.v1.

    python -m bench stream-peers [--events 200000] [--visitors 20000] [--partitions 64] [--rounds 3] [--only NAME,...]
                                 [--rate 2000] [--seconds 20] [--profiles 100000] [--peers .venv/peers]

counters   bench/peers/job.py: three windowed counters a visitor, on each engine. Every engine's counters are compared
           with the input's, one by one.
worker     `tracker worker` by 1, 2 and 4 processes: both hops, identity, dedupe, counters, triggers; with carts alone
           (1 process), and with all signals.
latency    one worker at --rate events/s: from received to visible in Redis, of visitors who come once; and of carts
           that are left, from due to the trigger in Kafka.
memory     Redis's bytes a profile and an event, after --profiles visitors.

CPU is that of the engine's process by its own clock, user and system, all threads, and Redis's where the engine keeps
its state there (the others keep theirs in their process). Kafka's own is printed apart: changelogs cost it, too. What
starting costs is left out: measured is from the first quarter of the events on.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import redis
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from bench.endpoint import ROOT, cpu_s, spread
from bench.load import events, produce
from bench.peers import job, kafka_streams
from bench.peers.rate import Rate, at_rate
from bench.running import ALL_BUT_CARTS, ASK_S, Servers, ended, servers, settings_of, wait_for, workers
from tracker.cli.topics import create
from tracker.contract import keys
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_SITE
from tracker.contract.topics import EVENTS, PROFILE_EVENTS, TOPICS
from tracker.embedded.process import PartError

SPAN_MS: Final = 180_000
"""The records were received over so long: several minutes' windows."""
LIMIT_S: Final = 600.0
"""For an engine to end; it is an error then."""
EMPTY_S: Final = 30.0
IDLE_S: Final = 5
"""At a fixed rate carts are left after so long, that triggers are seen in the time it takes."""
WORKERS: Final = ((1, ALL_BUT_CARTS), (1, ""), (2, ""), (4, ""))
"""(processes, signals that are off)."""
PARTS: Final = ("counters", "worker", "latency", "memory")
YARDSTICK: Final = "kafka-streams"

Record = tuple[bytes, bytes]


class Missing(Exception):
    """An engine can't run here: why."""


class Wrong(Exception):
    """An engine failed, or its results are not the input's."""


class Clocks(NamedTuple):
    """Where a measurement stood: events done, wall clock, CPU seconds of engine, Redis and Kafka."""

    events: int
    wall_s: float
    engine_s: float
    redis_s: float
    kafka_s: float


class Cost(NamedTuple):
    """What events cost, between two clocks."""

    events_s: float
    engine_us: float
    redis_us: float
    kafka_us: float

    @property
    def core_s(self) -> float:
        """Events a second of one core's CPU."""
        return 1e6 / (self.engine_us + self.redis_us)


def clocks(on: Servers, pids: Sequence[int], done: int) -> Clocks:
    engine_s = sum(cpu_s(pid) for pid in pids)
    return Clocks(done, time.perf_counter(), engine_s, cpu_s(on.redis_pid), cpu_s(on.kafka_pid))


def cost(begin: Clocks, end: Clocks, *, in_redis: bool) -> Cost:
    n = end.events - begin.events
    return Cost(
        n / (end.wall_s - begin.wall_s),
        (end.engine_s - begin.engine_s) / n * 1e6,
        (end.redis_s - begin.redis_s) / n * 1e6 if in_redis else 0.0,
        (end.kafka_s - begin.kafka_s) / n * 1e6,
    )


# -- the log and Redis between two measurements ------------------------------------------------------------------------


async def _emptied(bootstrap: str, topics: Sequence[str], partitions: int) -> None:
    """Delete the records of `topics`, and all topics that an engine made for itself."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        ours = {topic.name for topic in TOPICS}
        made = [name for name in await admin.list_topics() if name not in ours and not name.startswith("__")]
        if made:
            await admin.delete_topics(made)
        if topics:
            all_of_it = RecordsToDelete(before_offset=-1)
            wanted = {TopicPartition(t, p): all_of_it for t in topics for p in range(partitions)}
            async with asyncio.timeout(EMPTY_S):
                while True:
                    try:
                        await admin.delete_records(wanted)
                        break
                    except KafkaError as e:
                        if not e.retriable:
                            raise
                        await asyncio.sleep(0.2)  # A topic that was just made has no leader yet.
    finally:
        await admin.close()


def emptied(on: Servers, topics: Sequence[str], partitions: int) -> None:
    asyncio.run(_emptied(on.bootstrap, topics, partitions))
    with redis.Redis.from_url(on.redis) as client:
        client.flushall()


# -- counters ----------------------------------------------------------------------------------------------------------


class Engine(NamedTuple):
    name: str
    what: str
    command: Callable[[Servers, int, Path], tuple[list[str], list[str], Mapping[str, str]]]
    """(servers, partitions, a folder of its own) -> what goes before and after the arguments of job.py, environment.
    Raises Missing."""
    in_redis: bool = False
    share: int = 1
    """It reads one of so many of the records: more of them would only take longer."""


def engines(peers: Path) -> list[Engine]:
    def group() -> str:
        return f"bench-{time.time_ns()}"

    def python(module: str) -> list[str]:
        return [sys.executable, "-m", f"bench.peers.{module}"]

    def quix(on: Servers, partitions: int, folder: Path) -> tuple[list[str], list[str], Mapping[str, str]]:
        if not (peers / "quixstreams").is_dir():
            raise Missing(f"quixstreams is not in {peers}: `make peers` brings it")
        return python("quix"), [group()], {"PYTHONPATH": str(peers.resolve())}

    def streams(guarantee: str) -> Callable[[Servers, int, Path], tuple[list[str], list[str], Mapping[str, str]]]:
        def command(on: Servers, partitions: int, folder: Path) -> tuple[list[str], list[str], Mapping[str, str]]:
            try:
                java = kafka_streams.command(folder)
            except PartError as e:
                raise Missing(str(e)) from None
            return java, [guarantee, str(folder / "state"), group()], {}

        return command

    return [
        Engine(
            "ours", "this engine, state in Redis",
            lambda on, partitions, folder: (python("ours"), [group(), on.redis], {}), in_redis=True,
        ),
        Engine(YARDSTICK, "Kafka Streams, RocksDB, at least once", streams("at_least_once")),
        Engine("kafka-streams-eos", "Kafka Streams, RocksDB, exactly_once_v2", streams("exactly_once_v2")),
        Engine("quixstreams", "quixstreams, RocksDB, at least once", quix, share=4),
        Engine(
            "faust", "stock Faust, Tables in memory, at least once",
            lambda on, partitions, folder: (python("faust_table"), [group(), str(partitions)], {}), share=10,
        ),
    ]  # fmt: skip


def run_engine(on: Servers, engine: Engine, partitions: int, records: Sequence[Record], want: Counter[job.Key]) -> Cost:
    """`records`: what the topic has; `want`: their counters. Raises Missing, Wrong."""
    count = len(records)
    with TemporaryDirectory(prefix="tracker-bench-") as name:
        folder = Path(name)
        before, after, env = engine.command(on, partitions, folder)
        out, log = folder / "counters", folder / "log"
        argv = [*before, on.bootstrap, EVENTS, str(count), str(count // 4), str(out), *after]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                argv, cwd=ROOT, env=os.environ | env | {"TMPDIR": name}, stdout=subprocess.PIPE, stderr=errors
            )
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            seen: dict[str, Clocks] = {}
            if process.stdout is not None:
                with process.stdout as said:
                    for text in said:
                        word, *n = text.decode().split()
                        seen[word] = clocks(on, [process.pid], int(n[0]) if n else 0)
                        if word == "wrote":
                            break
        finally:
            limit.cancel()
            process.kill()
            ended(process)
        if "wrote" not in seen:
            told = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
            raise Wrong(f"{engine.name} ended before the events did: {told[-1] if told else 'no output'}")
        if (first := job.difference(want, job.read(out))) is not None:
            raise Wrong(f"{engine.name} counted wrong: {first}")
        return cost(seen["mark"], seen["done"], in_redis=engine.in_redis)


# -- worker ------------------------------------------------------------------------------------------------------------


@contextmanager
def stopped(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """With these processes stopped; they go on after it, also when it failed."""
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def run_workers(
    on: Servers, number: int, signals_off: str, partitions: int, records: Sequence[Record], want: Counter[job.Key]
) -> Cost:
    """Raises Wrong. The records are in the topic afterwards."""
    emptied(on, (EVENTS, PROFILE_EVENTS), partitions)
    with workers(settings_of(on, partitions) | {"TRACKER_SIGNALS_OFF": signals_off}, number) as running:
        wait_for(lambda: all(worker.ready() for worker in running), 90.0)
        time.sleep(2.0)
        pids = [worker.pid for worker in running]
        with stopped([worker.process for worker in running]):
            asyncio.run(produce(on.bootstrap, partitions, records))
            begin = clocks(on, pids, 0)
        wait_for(lambda: sum(worker.events() for worker in running) >= len(records), LIMIT_S, ASK_S)
        end = clocks(on, pids, len(records))
    if (problem := worker_problem(on, partitions, want)) is not None:
        raise Wrong(f"{number} worker(s): {problem}")
    return cost(begin, end, in_redis=True)


def worker_problem(on: Servers, partitions: int, want: Counter[job.Key]) -> str | None:
    """What the worker's minutes and profiles differ in from the input's: None = nothing."""
    minutes: Counter[int] = Counter()
    for (tier, start_s, _), n in want.items():
        if tier == "m":
            minutes[start_s] += n
    have: Counter[int] = Counter()
    profiles = 0
    with redis.Redis.from_url(on.redis, decode_responses=True) as client:
        for start_s, partition in itertools.product(minutes, range(partitions)):
            key = keys.counter_key(partition, DEMO_SITE, "site", "m", start_s)
            have[start_s] += int(client.hget(key, keys.TOTAL_FIELD) or 0)
        for _ in client.scan_iter(match=f"*:v:{DEMO_SITE}:*", count=1000):
            profiles += 1
    visitors = len({visitor for _, _, visitor in want})
    if have != minutes:
        return f"the events of its minutes are {dict(have)} instead of {dict(minutes)}"
    return None if profiles == visitors else f"it has {profiles} profiles of {visitors} visitors"


# -- latency and memory ------------------------------------------------------------------------------------------------


def run_rate(on: Servers, partitions: int, visitors: int, rate: float, seconds: float) -> Rate:
    emptied(on, (EVENTS, PROFILE_EVENTS), partitions)
    idle = dict.fromkeys(("CART", "CHECKOUT", "PAYMENT"), str(IDLE_S))
    env = settings_of(on, partitions) | {f"TRACKER_{stage}_IDLE_S": idle_s for stage, idle_s in idle.items()}
    with workers(env) as (worker,):
        wait_for(worker.ready, 60.0)
        time.sleep(2.0)
        return asyncio.run(at_rate(load(env), worker.pid, on.redis_pid, visitors, rate, seconds))


FAMILIES: Final = ("v", "id", "seen", "c")
"""Kinds of keys (tracker/contract/keys.py) that are printed apart."""


class Memory(NamedTuple):
    """Bytes of Redis, and by family of keys: after one event of each profile, and after more of the same profiles."""

    first: int
    first_by: Counter[str]
    more: int
    more_by: Counter[str]


def run_memory(on: Servers, partitions: int, profiles: int, more: int) -> Memory:
    """`more`: events of each profile after the first."""
    emptied(on, (EVENTS, PROFILE_EVENTS), partitions)
    count = 0
    with workers(settings_of(on, partitions)) as (worker,), redis.Redis.from_url(on.redis) as client:
        wait_for(worker.ready, 60.0)
        time.sleep(2.0)
        found = [(used(client), Counter[str]())]
        for seed, each in ((1, 1), (2, more)):
            of_all = events(profiles * each, profiles, seed, SPAN_MS, evenly=True)
            asyncio.run(produce(on.bootstrap, partitions, of_all))
            count += profiles * each
            wait_for(lambda: worker.events() >= count, LIMIT_S, ASK_S)  # noqa: B023  # called here alone
            time.sleep(2.0)
            found.append((used(client), by_family(client)))
    (base, none), (first, first_by), (all_, all_by) = found
    return Memory(first - base, first_by - none, all_ - first, all_by - first_by)


def used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory_dataset"])


def by_family(client: redis.Redis) -> Counter[str]:
    """MEMORY USAGE of all keys by family."""
    found: Counter[str] = Counter()

    def add(some: list[bytes]) -> None:
        pipe = client.pipeline(transaction=False)
        for key in some:
            pipe.memory_usage(key, samples=0)
        for key, size in zip(some, pipe.execute(), strict=True):
            kind = key.split(b":", 2)[1].decode()
            if key.startswith(b"{s:"):
                kind = key.partition(b"}:")[2].split(b":", 1)[0].decode()
            found[kind if kind in FAMILIES else "other"] += size or 0

    batch: list[bytes] = []
    for key in client.scan_iter(count=1000):
        batch.append(key)
        if len(batch) >= 1000:
            add(batch)
            batch = []
    add(batch)
    return found


# -- the run -----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Print the tables. Exits with 1 when an engine's results were wrong."""
    args = arguments(argv)
    if not sys.platform.startswith("linux"):
        raise SystemExit("bench: another process's CPU clock is read as Linux has it")
    chosen = [e for e in engines(args.peers) if not args.only or e.name in args.only]
    parts = [part for part in PARTS if not args.parts or part in args.parts]
    rows: dict[str, tuple[str, list[Cost]]] = {}
    missing: dict[str, str] = {}
    wrong: list[str] = []

    def row(name: str, what: str, measure: Callable[[], Cost]) -> None:
        try:
            found = measure()
            told = f"{found.events_s:,.0f} events/s, {found.engine_us:.1f} + {found.redis_us:.1f} us/event"
            print(f"  {what}: {told}", file=sys.stderr, flush=True)
            rows.setdefault(name, (what, []))[1].append(found)
        except Missing as e:
            missing[name] = str(e)
        except (Wrong, TimeoutError) as e:
            wrong.append(str(e))
            print(f"error: {e}", file=sys.stderr, flush=True)

    busy = os.getloadavg()[0]
    if busy > 1.0:
        print(
            f"stream-peers: the machine is busy (load {busy:.1f}): latencies and events/s are others' too", flush=True
        )
    with servers() as on:
        asyncio.run(create(load(settings_of(on, args.partitions))))
        records = list(events(args.events, args.visitors, span_ms=SPAN_MS))
        want = job.expected(value for _, value in records)
        if "counters" in parts or "worker" in parts:
            print(
                f"stream-peers: {args.events:,} events of {args.visitors:,} visitors, {args.partitions} partitions, "
                f"{len(want):,} counters; median of {args.rounds} rounds (least..most)",
                flush=True,
            )
        for turn in range(args.rounds):
            if "worker" in parts:
                for n, off in WORKERS:
                    what = f"tracker worker, {n} process{'es' if n > 1 else ''}{', carts alone' if off else ''}"
                    row(f"worker-{n}-{off}", what, partial(run_workers, on, n, off, args.partitions, records, want))
            if "counters" in parts:
                for share in sorted({engine.share for engine in chosen}):
                    part = records[: len(records) // share]
                    emptied(on, (EVENTS, PROFILE_EVENTS), args.partitions)
                    asyncio.run(produce(on.bootstrap, args.partitions, part))
                    of_part = want if share == 1 else job.expected(value for _, value in part)
                    for engine in turned([e for e in chosen if e.share == share and e.name not in missing], turn):
                        emptied(on, (), args.partitions)
                        row(engine.name, engine.what, partial(run_engine, on, engine, args.partitions, part, of_part))
        order = [engine.name for engine in chosen] + [f"worker-{n}-{off}" for n, off in WORKERS]
        if rows or missing:
            print_rows({name: rows[name] for name in order if name in rows}, missing)
        if "latency" in parts:
            print_rate(args, run_rate(on, args.partitions, args.visitors, args.rate, args.seconds))
        if "memory" in parts:
            more = 2
            print_memory(args.profiles, more, run_memory(on, args.partitions, args.profiles, more))
    if wrong:
        raise SystemExit("bench: wrong results: " + "; ".join(wrong))


def turned(chosen: list[Engine], turn: int) -> list[Engine]:
    """Another one first in every round."""
    first = turn % max(1, len(chosen))
    return chosen[first:] + chosen[:first]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(
        prog="python -m bench stream-peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--visitors", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2000.0, help="events/s of the latency")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the latency's measurement")
    parser.add_argument("--profiles", type=int, default=100_000, help="profiles of the memory")
    parser.add_argument(
        "--peers", type=Path, default=Path(".venv/peers"), help="folder with quixstreams (`make peers`)"
    )
    parser.add_argument("--only", type=names, metavar="NAME,...", help="engines of the counters")
    parser.add_argument("--parts", type=names, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    args = parser.parse_args(argv)
    known = [engine.name for engine in engines(args.peers)]
    for what, given, have in (("engine", args.only, known), ("part", args.parts, PARTS)):
        for name in given or ():
            if name not in have:
                parser.error(f"there is no {what} {name}; there are: {', '.join(have)}")
    return args


COLUMNS: Final = (46, 24, 24, 24, 7, 11)


def print_rows(rows: Mapping[str, tuple[str, list[Cost]]], missing: Mapping[str, str]) -> None:
    yard = rows.get(YARDSTICK, ("", []))[1]
    unit = statistics.median(c.core_s for c in yard) if yard else None
    print(line("", "events/s", "CPU us/event", "events/s a core", "ratio", "Kafka's us"))
    for what, found in rows.values():
        engine_us, redis_us, kafka_us = (
            statistics.median(of) for of in zip(*((c.engine_us, c.redis_us, c.kafka_us) for c in found), strict=True)
        )
        core_s = [c.core_s for c in found]
        print(
            line(
                what,
                spread([c.events_s for c in found], 0),
                f"{engine_us:.1f} + {redis_us:.1f} Redis" if redis_us else f"{engine_us:.1f}",
                spread(core_s, 0),
                f"{statistics.median(core_s) / unit:.2f}x" if unit else "-",
                f"{kafka_us:.1f}",
            )
        )
    for name, why in missing.items():
        print(f"{name}: {why}")
    print("ratio: events/s a core against Kafka Streams, at least once; its core has Redis's CPU in it", flush=True)


def line(first: str, *rest: str) -> str:
    cells = zip(rest, COLUMNS[1:], strict=True)
    return f"{first:<{COLUMNS[0]}}" + "".join(f"{cell:>{width}}" for cell, width in cells)


def print_rate(args: argparse.Namespace, found: Rate) -> None:
    ms = sorted(found.latencies_ms)
    p50, p99 = (ms[min(len(ms) - 1, int(len(ms) * q))] for q in (0.5, 0.99))
    print(
        f"latency at {found.events_s:,.0f} events/s, one worker, {args.seconds:.0f} s, received to visible in Redis, "
        f"{len(ms)} visitors looked for: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {ms[-1]:.0f} ms; "
        f"CPU us/event {found.worker_us:.1f}, Redis {found.redis_us:.1f} (with the looking)",
        flush=True,
    )
    if delays := sorted(found.delays_ms):
        p50, p99 = (delays[min(len(delays) - 1, int(len(delays) * q))] for q in (0.5, 0.99))
        print(
            f"triggers of {len(delays)} carts that were left, from due + 2 s to published: p50 {p50:.0f} ms, "
            f"p99 {p99:.0f} ms",
            flush=True,
        )


def print_memory(profiles: int, more: int, found: Memory) -> None:
    def listed(by: Counter[str], n: int) -> str:
        return ", ".join(f"{kind} {size / n:.1f}" for kind, size in by.most_common() if size)

    n = profiles * more
    print(f"Redis bytes after {profiles:,} profiles with one event each: {found.first / profiles:,.0f} a profile "
          f"(by keys: {listed(found.first_by, profiles)})")  # fmt: skip
    print(f"Redis bytes after {more} more events of each: {found.more / n:,.1f} an event "
          f"(by keys: {listed(found.more_by, n)})", flush=True)  # fmt: skip
