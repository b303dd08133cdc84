"""Clients of other vendors, unmodified and pinned, driven against the endpoint.

A server-side client is a program (python/, node/, go/) that reads a task from stdin, makes its calls with the client's
own API and options, and prints what the client told of them:

    {"host", "key", "gzip", "batch": events a request, "s2s", "calls"}  ->  {"refused": [n, ...], "errors"}

`n` numbers the calls; it travels in `properties` or `traits`, so that a call is found again in Kafka.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.harness import ROOT, Site, Stack
from tracker.cli import topics
from tracker.embedded.process import free_port

HERE: Final = Path(__file__).parent
INSTALLED: Final = Path(sys.prefix) / "clients"
"""Where `make clients` puts the Python and Go clients."""
MODULES: Final = HERE / "node" / "node_modules"

MANY: Final = 100
OVERSIZE: Final = 7
MOMENT: Final = "2026-01-02T03:04:05.678+00:00"
TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")


@dataclass(frozen=True)
class Client:
    package: str
    """As its registry calls it."""
    library: tuple[str, str]
    """context.library: name and version ('{}': the package's)."""
    argv: tuple[str, ...]
    path: str | None = None
    """PYTHONPATH of a Python client, below INSTALLED."""
    types: tuple[str, ...] = TYPES
    gzip: tuple[bool, ...] = (False, True)
    """In the plain run, and in the one with faults."""
    oversize: str = "client"
    """Who refuses an event over 32 KB: the 'client', or the endpoint with a 'letter' or a '413'."""
    s2s: bool = False

    def missing(self) -> str | None:
        """Why it can't run."""
        if self.path is not None:
            there = (INSTALLED / self.path).exists()
        elif self.argv[0] == "node":
            there = (MODULES / self.package).exists()
        else:
            there = Path(self.argv[0]).exists()
        return None if there else f"{self.package} is not installed: make clients"


def _python(package: str, module: str, path: str, **more: Any) -> Client:
    argv = (sys.executable, str(HERE / "python" / "client.py"), module)
    return Client(package, ("analytics-python", "{}"), argv, path, **more)


def _node(package: str, file: str, library: str, **more: Any) -> Client:
    return Client(package, (library, "{}"), ("node", str(HERE / "node" / file)), **more)


GO: Final = Client(
    "github.com/segmentio/analytics-go/v3",
    ("analytics-go", "3.0.0"),  # a constant of its source that its releases forgot
    (str(INSTALLED / "segment-go"),),
    gzip=(False, False),
)
SERVER_CLIENTS: Final[dict[str, Client]] = {
    "segment-python": _python("segment-analytics-python", "segment.analytics", "python"),
    "segment-python-old": _python("analytics-python", "analytics", "python-old"),
    "rudder-python": _python("rudder-sdk-python", "rudderstack.analytics", "python", oversize="letter"),
    "segment-node": _node("@segment/analytics-node", "segment.cjs", "@segment/analytics-node", oversize="letter"),
    "rudder-node": _node(
        "@rudderstack/rudder-sdk-node", "rudder.cjs", "analytics-node", gzip=(True, False), oversize="letter"
    ),
    "jitsu-node": _node(
        "@jitsu/js", "jitsu.cjs", "@jitsu/js", types=("identify", "track", "page", "group"), oversize="413", s2s=True
    ),
    "segment-go": GO,
}


def pins() -> dict[str, str]:
    """Client -> the version that is installed, from the files that pin it."""
    found: dict[str, str] = json.loads((HERE / "node" / "package.json").read_text())["dependencies"]
    del found["@asyncapi/specs"]  # no client: tests/unit/test_asyncapi.py's
    for file in ("requirements.in", "requirements-old.in"):
        found |= dict(re.findall(r"^([\w-]+)==(\S+)$", (HERE / "python" / file).read_text(), re.MULTILINE))
    found |= dict(re.findall(r"^require (\S+) v(\S+)$", (HERE / "go" / "go.mod").read_text(), re.MULTILINE))
    return found


def calls(user: str, types: tuple[str, ...], many: int) -> list[dict[str, Any]]:
    """One of each type, one over 32 KB, and many."""
    found: list[dict[str, Any]] = [
        {"type": "identify", "traits": {"name": "Nguyễn Thị Hoà 🛒", "email": f"{user}@example.com"}},
        {
            "type": "track",
            "event": "Đặt hàng 🎉",
            # Half a surrogate pair: a text that was cut in the middle of an emoji.
            "properties": {"text": "nửa \ud83d emoji", "moment": MOMENT, "inner": {"list": [1, 2.5, None, True]}},
        },
        {"type": "page", "name": "Trang chủ", "properties": {"url": "https://shop.example/?q=phở"}},
        {"type": "screen", "name": "Giỏ hàng", "properties": {"size": 3}},
        {"type": "group", "groupId": f"{user}-group", "traits": {"name": "Tiệm 🍜"}},
        {"type": "alias", "previousId": f"{user}-before"},
        {"type": "track", "event": "Email Link Clicked", "properties": {"campaign_id": "c1"}},
        {"type": "track", "event": "Large", "properties": {"by": user, "blob": "x" * 40_000}},
        *({"type": "track", "event": "Many", "properties": {"of": many}} for _ in range(many)),
    ]
    for n, call in enumerate(found):
        call |= {"n": n, "userId": user}
        for part in ("properties", "traits"):
            if part in call:
                call[part]["n"] = n
    return [call for call in found if call["type"] in types]


@dataclass
class Run:
    """What one client was told to send, and what came of it."""

    client: Client
    user: str
    calls: list[dict[str, Any]]
    started_ms: float = field(default_factory=lambda: time.time() * 1000)
    ended_ms: float = 0.0
    refused: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failure: str = ""
    """Why the program ended in error."""
    posts: list[int] = field(default_factory=list)
    """What the proxy in front answered to its POSTs, 0: cut."""


def drive(client: Client, host: str, site: Site, user: str, faulty: bool) -> Run:
    run = Run(client, user, calls(user, client.types, MANY))
    task = {
        "host": host, "key": site.write_key, "gzip": client.gzip[faulty], "batch": 20, "s2s": client.s2s,
        "calls": run.calls,
    }  # fmt: skip
    env = None if client.path is None else {"PYTHONPATH": str(INSTALLED / client.path), "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            client.argv, input=json.dumps(task), env=env, cwd=ROOT, capture_output=True, text=True, timeout=80,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        run.failure = f"it did not end: {e.stderr!r}"
    else:
        if done.returncode == 0:
            told = json.loads(done.stdout)
            run.refused, run.errors = told["refused"], told["errors"]
        else:
            run.failure = done.stderr[-2000:]
    run.ended_ms = time.time() * 1000
    return run


async def read_all(stack: Stack, topic: str, site: Site) -> list[dict[str, Any]]:
    """All that `topic` holds now of `site`."""
    async with topics.admin(stack.settings.kafka) as client:
        (described,) = await client.describe_topics([topic])
    partitions = [TopicPartition(topic, p["partition"]) for p in described["partitions"]]
    found: list[dict[str, Any]] = []
    mark = f'"site":"{site.name}"'.encode()
    async with AIOKafkaConsumer(bootstrap_servers=stack.settings.kafka, enable_auto_commit=False) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                batches = await consumer.getmany(timeout_ms=200)
                values = (record.value for record in itertools.chain.from_iterable(batches.values()))
                found += (json.loads(value) for value in values if mark in value)
    return found


def check(run: Run, events: list[dict[str, Any]], letters: list[dict[str, Any]]) -> None:
    """Every call is in Kafka, with the fields it was made with; repeats have the messageId of the first."""
    assert not run.failure
    assert run.errors == []
    mine = [event for event in events if event.get("userId") == run.user]
    expected = [call for call in run.calls if call["n"] != OVERSIZE]
    by_id = {event["messageId"]: event for event in mine}
    assert sorted(map(number_of, by_id.values())) == [call["n"] for call in expected]
    found = {number_of(event): event for event in by_id.values()}
    for call in expected:
        compare(run, call, found[call["n"]])
    # What is over the limit is refused alone, and whoever refuses it says so.
    if run.client.oversize == "letter":
        assert {letter["reason"] for letter in letters if letter["user"] == run.user} == {"event_too_large"}
        assert run.refused == []
    else:
        assert run.refused == [OVERSIZE]


def number_of(event: dict[str, Any]) -> int:
    """Which call it was."""
    if event["type"] == "alias":
        return 5
    part: dict[str, Any] = event["traits" if event["type"] in ("identify", "group") else "properties"]
    return int(part["n"])


def compare(run: Run, call: dict[str, Any], event: dict[str, Any]) -> None:
    library, version = run.client.library
    sent = event["context"]["library"]
    assert (sent["name"], sent["version"]) == (library, version.format(pins()[run.client.package]))
    assert event["type"] == call["type"]
    assert event.get("event") == call.get("event")
    assert event["channel"] == ("email" if event.get("event", "").startswith("Email ") else "site")
    assert event.get("previousId") == call.get("previousId")
    if call["type"] == "group":
        assert event["groupId"] == call["groupId"]
    if "name" in call:
        assert (event.get("name") or event["properties"]["name"]) == call["name"]  # Jitsu's page calls
    # Half a pair of surrogates is U+FFFD, as it is in every browser.
    wanted = json.loads(json.dumps(call.get("properties") or {}).replace("\\ud83d ", "\\ufffd "))
    if "moment" in wanted:  # each language writes its own form of it
        assert event["properties"]["moment"][:19] == wanted.pop("moment")[:19]
    assert {name: event["properties"][name] for name in wanted} == wanted
    if "traits" in call:
        assert call["traits"].items() <= event["traits"].items()
    assert run.started_ms - 2000 <= event["timestampMs"] <= run.ended_ms + 2000


class Faults:
    """A proxy in front of the endpoint whose first POSTs go wrong; the rest passes through untouched.

    'busy': 503 with Retry-After, the endpoint does not see it. 'cut': the endpoint has answered 200, and the
    connection breaks before the client sees any of it.
    """

    BUSY: Final = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        b"access-control-allow-origin: *\r\naccess-control-expose-headers: Retry-After\r\ncontent-length: 88\r\n\r\n"
        b'{"success":false,"code":"overloaded","message":"Too many events are waiting.","hint":""}'
    )

    def __init__(self, upstream: str, script: tuple[str, ...] = ("busy", "busy", "cut")) -> None:
        self._upstream = int(upstream.rpartition(":")[2])
        self._script: Iterator[str] = iter(script)
        self.left = len(script)
        """Faults that did not happen yet."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._main()))

    def __enter__(self) -> Faults:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self._loop.close()

    async def _main(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 23)
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream, limit=1 << 23)
        both = {writer, up_writer}
        self._writers |= both
        try:
            while True:
                request = await _message(reader)
                fault = next(self._script, "") if request.startswith(b"POST ") else ""
                self.left -= bool(fault)
                if fault == "busy":
                    writer.write(self.BUSY)
                    continue
                up_writer.write(request)
                answer = await _message(up_reader)
                if fault == "cut":
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    writer.transport.abort()
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # one side has closed
        finally:
            self._writers -= both
            for each in both:
                each.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One request or answer as it came. All clients here, and the endpoint, say how long a body is."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(length[1])) if length else b"")
