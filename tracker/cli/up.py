"""`tracker up`: the whole stack on one machine. Starts the parts in order, watches them, stops them in order.

DATA_DIR/kafka/  DATA_DIR/redis/   their data, kept over restarts
DATA_DIR/logs/                     one log a part
DATA_DIR/lock                      held by this process, Kafka and Redis: one `up` at a time
"""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from tracker.cli.common import Failure, printable
from tracker.contract.loading import load
from tracker.contract.settings import Settings
from tracker.embedded import kafka, redis
from tracker.embedded.process import Child, PartError, free_port, port_problem, rotate, wait_until

KAFKA_PORT: Final = 9092
REDIS_PORT: Final = 6379
MIN_MEMORY_MB: Final = 1024
DEMO_ENV: Final = {
    "TRACKER_DEMO": "1",
    "TRACKER_CART_IDLE_S": "20", "TRACKER_CHECKOUT_IDLE_S": "20", "TRACKER_PAYMENT_IDLE_S": "20",
}  # fmt: skip
LINES_A_ROUND: Final = 20
"""Problem lines shown of one part in one round of the watch; more are only in its log."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came: stop in order, exit 0."""


@click.command()
@click.option("--demo", is_flag=True, help="Serve the demo shop; carts count as abandoned after 20 s.")
@click.option("--data-dir", metavar="DIR", help="Where Kafka and Redis keep their data.  [default: data]")
@click.option("--http-port", type=int, metavar="PORT", help="Port of the endpoint; 0 = a free one.  [default: 8080]")
@click.option(
    "--kafka-port",
    type=click.IntRange(0, 65535),
    default=KAFKA_PORT,
    show_default=True,
    help="0 = a free one.",
)
@click.option(
    "--redis-port",
    type=click.IntRange(0, 65535),
    default=REDIS_PORT,
    show_default=True,
    help="0 = a free one.",
)
@click.option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of an embedded one.")
@click.option("--redis", metavar="URL", help="Use this Redis instead of an embedded one.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many workers.")
@click.option(
    "--worker-port",
    type=int,
    metavar="PORT",
    help="Port of the first worker; 0 = free ones.  [default: 8081]",
)
def up(demo: bool, kafka_port: int, redis_port: int, workers: int, **overrides: Any) -> int:
    """Start Kafka, Redis, the endpoint and workers on this machine, and stop all of it on Ctrl-C.

    Kafka and Redis are real ones that come with the Python packages (extra `embedded`). A Kafka or Redis named by
    --kafka / --redis (or TRACKER_KAFKA / TRACKER_REDIS) is used instead.
    """
    env = {**DEMO_ENV, **os.environ} if demo else dict(os.environ)
    settings = load(env, **overrides)
    return Up(settings, env, kafka_port, redis_port, workers).run()


class Up:
    def __init__(
        self, settings: Settings, env: Mapping[str, str], kafka_port: int, redis_port: int, workers: int
    ) -> None:
        plain = Settings()
        self.own_kafka, self.own_redis = settings.kafka == plain.kafka, settings.redis == plain.redis
        self.data, self.env, self.console = (
            Path(settings.data_dir),
            env,
            Console(highlight=False, soft_wrap=True),
        )
        self.ports = _choose_ports(
            settings, kafka_port if self.own_kafka else None, redis_port if self.own_redis else None, workers
        )
        self.settings = msgspec.structs.replace(
            settings,
            http_port=self.ports["endpoint"],
            kafka=f"127.0.0.1:{self.ports['kafka']}" if self.own_kafka else settings.kafka,
            redis=f"redis://127.0.0.1:{self.ports['redis']}/0" if self.own_redis else settings.redis,
        )
        self.workers = [f"worker-{i}" for i in range(workers)]
        self.webhooks = _delivers(settings)
        self.groups: list[list[Child]] = []
        """What runs, in the order it was started; the children of a group stop together."""
        self.signals = 0
        self.started = time.monotonic()

    @property
    def children(self) -> list[Child]:
        return [child for group in self.groups for child in group]

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._check_memory()
            with _locked(self.data) as lock:
                try:
                    self._start(lock)
                    self._print_urls()
                    self._watch()
                except PartError as e:
                    # What ended while the signal was on its way is no failure.
                    if not self.signals:
                        raise Failure(str(e)) from None
                finally:
                    self._stop()
        except Interrupted:
            pass
        except PartError as e:
            raise Failure(str(e)) from None
        return 0

    # -- start -----------------------------------------------------------------------------------------------------

    def _start(self, lock: int) -> None:
        logs, say = self.data / "logs", self._say
        logs.mkdir(exist_ok=True)
        parts: list[Child] = []
        if self.own_redis:
            parts.append(
                redis.server(self.data / "redis", self.ports["redis"], logs / "redis.log", keep_fds=(lock,), say=say)
            )
        if self.own_kafka:
            heap = self.settings.kafka_heap_mb
            parts.append(
                kafka.broker(
                    self.data / "kafka",
                    self.ports["kafka"],
                    heap,
                    logs / "kafka.log",
                    keep_fds=(lock,),
                    say=say,
                )
            )
        for part in parts:
            self._begin([part])
        self._await(
            "Redis",
            lambda: redis.answers(self.settings.redis),
            self.settings.redis,
            30 if self.own_redis else 5,
        )
        self._await(
            "Kafka",
            lambda: kafka.answers(self.settings.kafka),
            self.settings.kafka,
            90 if self.own_kafka else 10,
        )
        self._topics()
        workers = [self._python(name, "worker") for name in self.workers]
        self._begin(workers)
        self._begin([self._python("endpoint", "serve")])
        at = (self._host(self.settings.http_host), self.ports["endpoint"])
        self._await("endpoint", partial(ready, *at), f"{at[0]}:{at[1]}", 30)
        if self.webhooks:
            self._begin([self._python("webhooks", "webhooks deliver")])
            hooks_at = (self._host(self.settings.webhook_host), self.ports["webhooks"])
            self._await("webhooks", partial(ready, *hooks_at), f"{hooks_at[0]}:{hooks_at[1]}", 60)
        for name in self.workers:
            worker_at = (self._host(self.settings.worker_host), self.ports[name])
            self._await(name, partial(ready, *worker_at), f"{worker_at[0]}:{worker_at[1]}", 60)

    def _begin(self, group: list[Child]) -> None:
        self.groups.append(group)
        for child in group:
            child.start()

    def _python(self, name: str, command: str) -> Child:
        """`tracker serve`, `worker`, `webhooks deliver` with what was chosen here; all else they read as this did."""
        env = {
            **self.env,
            "PYTHONUNBUFFERED": "1",
            "TRACKER_KAFKA": self.settings.kafka,
            "TRACKER_REDIS": self.settings.redis,
            "TRACKER_HTTP_PORT": str(self.ports["endpoint"]),
            "TRACKER_WORKER_ID": name,
            "TRACKER_WORKER_PORT": str(self.ports.get(name, 0)),
            "TRACKER_WEBHOOK_PORT": str(self.ports.get("webhooks", 0)),
        }
        log = self.data / "logs" / f"{name}.log"
        return Child(
            name,
            [sys.executable, "-m", "tracker.cli", *command.split()],
            log,
            env=env,
            grace_s=self.settings.drain_s + 5,
        )

    def _await(self, name: str, answers: Callable[[], bool], where: str, deadline_s: float) -> None:
        """Wait for a part with a spinner; a line when it is there."""
        began = time.monotonic()
        with self.console.status(f"waiting for {name}"):
            wait_until(answers, self.children, deadline_s, f"{name} at {where}", self._pause)
        self._say(f"[green]ok[/] {name:<9} {where}  [dim]{time.monotonic() - began:.1f} s[/]")

    def _topics(self) -> None:
        import asyncio

        from tracker.cli import topics

        created = asyncio.run(topics.create(self.settings))
        if problems := asyncio.run(topics.check(self.settings)):
            raise PartError(
                problems[0] + (f" (and {len(problems) - 1} more: `tracker topics check`)" if problems[1:] else "")
            )
        self._say(f"[green]ok[/] topics    {f'{len(created)} created' if created else 'are there'}")

    def _print_urls(self) -> None:
        base = f"http://{self._host(self.settings.http_host)}:{self.ports['endpoint']}"
        worker = f"http://{self._host(self.settings.worker_host)}:{self.ports[self.workers[0]]}"
        rows = [("shop", f"{base}/demo/")] if self.settings.demo else []
        rows += [("endpoint", base), ("snippet", base + self.settings.snippet_path), ("API", f"{base}/openapi.json")]
        rows += [("metrics", f"{base}/metrics  {worker}/metrics"), ("logs", str(self.data / "logs"))]
        self._say(f"\nReady after {time.monotonic() - self.started:.1f} s. Ctrl-C stops everything.\n")
        for name, where in rows:
            self._say(f"  {name:<9} {where}")
        self._say(f"\n  [dim]watch triggers: tracker tail --kafka {self.settings.kafka}[/]")

    # -- watch -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Until a signal (Interrupted) or until a part ends (PartError): show the problems that parts log."""
        while True:
            for child in self.children:
                self._show_problems(child)
                rotate(child.log)
                if not child.running:
                    self._show_problems(child)
                    for line in child.last_lines():
                        self._problem(child, line)
                    raise PartError(child.reason())
            self._pause(0.3)

    def _show_problems(self, child: Child) -> None:
        lines = [line for line in child.new_lines() if child.problem.search(line)]
        for line in lines[:LINES_A_ROUND]:
            self._problem(child, line)
        if len(lines) > LINES_A_ROUND:
            self._problem(child, f"... {len(lines) - LINES_A_ROUND} more in {child.log}")

    def _problem(self, child: Child, line: str) -> None:
        self.console.print(Text.assemble((f"{child.name:<9} ", "yellow"), printable(line, 500)))

    # -- stop ------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """The endpoint first (no more events), the workers, Kafka, Redis. A second Ctrl-C kills what is left."""
        for group in reversed(self.groups):
            ran = [child.running for child in group]
            for child in group:
                child.terminate()
            for child, was_running in zip(group, ran, strict=True):
                if child.process is not None:
                    code = child.stop()
                    if code == -signal.SIGKILL and was_running and self.signals < 2:
                        self._say(
                            f"[yellow]{child.name} did not stop in {child.grace_s:.0f} s: killed[/] ({child.log})"
                        )
        if self.groups:
            self._say("stopped")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        if not self.groups:  # only preparing: nothing to stop yet
            raise Interrupted
        if self.signals > 1:
            for child in self.children:
                if child.running and child.process is not None:
                    child.process.kill()

    def _pause(self, seconds: float) -> None:
        """Sleep. From the first child on signals are heeded here alone: none comes between fork and note."""
        if self.signals:
            raise Interrupted
        time.sleep(seconds)

    # -- small things ----------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self.console.print(text)

    @staticmethod
    def _host(host: str) -> str:
        """Where to reach what listens on `host`."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    def _check_memory(self) -> None:
        free = available_memory_mb()
        if self.own_kafka and free is not None and free < MIN_MEMORY_MB:
            raise PartError(
                f"{free} MB of memory are free, the embedded Kafka wants {MIN_MEMORY_MB}: "
                "end other programs, or use a Kafka that runs elsewhere: --kafka HOST:PORT"
            )


def _delivers(settings: Settings) -> bool:
    return any(not hook.paused for hook in settings.webhooks)


def _choose_ports(settings: Settings, kafka_port: int | None, redis_port: int | None, workers: int) -> dict[str, int]:
    """Part -> port. All are checked before anything starts. Raises Failure for the first that can't be had."""
    wanted: list[tuple[str, str, str, int]] = [("endpoint", "--http-port", settings.http_host, settings.http_port)]
    if kafka_port is not None:
        wanted.append(("kafka", "--kafka-port", "127.0.0.1", kafka_port))
    if redis_port is not None:
        wanted.append(("redis", "--redis-port", "127.0.0.1", redis_port))
    for i in range(workers):
        port = settings.worker_port and settings.worker_port + i
        wanted.append((f"worker-{i}", "--worker-port", settings.worker_host, port))
    if _delivers(settings):
        wanted.append(("webhooks", "TRACKER_WEBHOOK_PORT", settings.webhook_host, settings.webhook_port))
    taken: dict[int, str] = {}
    ports: dict[str, int] = {}
    for part, option, host, port in wanted:
        if port in taken:
            raise Failure(
                f"{part} and {taken[port]} both want port {port}: pass {option} with another (0 = a free one)"
            )
        if port and (problem := port_problem(host, port)):
            use = ""
            if part in ("kafka", "redis"):
                there = f"127.0.0.1:{port}" if part == "kafka" else f"redis://127.0.0.1:{port}"
                use = f", or --{part} {there} to use the one that runs there"
            raise Failure(f"port {port} ({part}) {problem}: pass {option} with another (0 = a free one){use}")
        if port:
            taken[port] = part
        ports[part] = port
    for part, _, host, port in wanted:
        while not port or (ports[part] == 0 and port in taken):
            port = free_port(host)
        taken[port], ports[part] = part, port
    return ports


@contextmanager
def _locked(data: Path) -> Iterator[int]:
    """The lock of a data directory as a descriptor. Kafka and Redis inherit it: as long as one of them lives, a
    second `up` is refused, also when this process was killed."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise PartError(
            f"the data directory {data} can't be used: {e.strerror}: pass --data-dir with another"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            by = os.read(lock, 32).decode("ascii", "replace").strip()
            raise PartError(
                f"the data directory {data} is in use by another `tracker up` (process {by or '?'}): "
                "stop that one, or pass --data-dir with another"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
        for name in ("kafka", "redis"):
            try:
                (data / name).mkdir(exist_ok=True)
            except OSError as e:
                raise PartError(f"the data directory {data} can't be used: {data / name}: {e.strerror}") from None
        if (free_mb := shutil.disk_usage(data).free >> 20) < 512:
            raise PartError(
                f"the disk of {data} has {free_mb} MB left, 512 are wanted: free some, or pass --data-dir with another"
            )
        yield lock
    finally:
        os.close(lock)


def ready(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """GET /readyz answers 200."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def available_memory_mb() -> int | None:
    """What can be had without swapping, within the limit of the control group; None where it isn't told."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        cached = _memory_stat().get("inactive_file", 0)
        if limit != "max":
            free = min(free, (int(limit) - used + cached) >> 20)
    except (OSError, ValueError):
        pass
    return free


def _memory_stat() -> dict[str, Any]:
    pairs = (line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text("ascii").splitlines())
    return {key: int(value) for key, value in pairs}
