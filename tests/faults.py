"""Senders that go on whatever happens, and the count of what became of their events; faults of servers and workers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from types import TracebackType
from typing import Any

from tests.endpoint import SHOP, values_of
from tests.harness import Servers, await_kafka, await_redis
from tracker.embedded.process import Child


class Load:
    """Users who send batches at a fixed rate, each over a connection of his own and never the same event twice: what
    is in Kafka twice was doubled by us. A batch without an answer is not acked."""

    def __init__(self, port: int, per_s: int, users: int = 20, batch: int = 5, prefix: str = "u") -> None:
        self.port = port
        self.sent: list[str] = []
        """messageIds: user, number."""
        self.acked: list[str] = []
        self.statuses: Counter[int] = Counter()
        """0: no answer."""
        self.answers: list[tuple[float, float, int]] = []
        """(when it was sent, how long it took, status), s."""
        self._every_s = users * batch / per_s
        self._users = [f"{prefix}{n}" for n in range(users)]
        self._batch = batch
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._user(user)) for user in self._users]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Send no more, wait for the answers that are due."""
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _user(self, user: str) -> None:
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        number, due_s = 0, time.monotonic()
        while not self._over:
            due_s = max(due_s + self._every_s, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            ids = [f"{user}-{number + i}" for i in range(self._batch)]
            number += self._batch
            batch = [{"type": "track", "event": "A", "userId": user, "messageId": i, "timestamp": None} for i in ids]
            body = json.dumps({"writeKey": SHOP.write_key, "batch": batch}).encode()
            self.sent += ids
            started_s, status = time.monotonic(), 0
            try:
                if line is None:
                    line = await asyncio.open_connection("127.0.0.1", self.port)
                line[1].write(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                async with asyncio.timeout(30):
                    head = await line[0].readuntil(b"\r\n\r\n")
                    status = int(head.split(b" ", 2)[1])
                    await line[0].readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                if b"connection: close" in head.lower():
                    line[1].close()
                    line = None
            except (OSError, EOFError, TimeoutError):
                if line is not None:
                    line[1].close()
                line = None
            self.statuses[status] += 1
            self.answers.append((started_s, time.monotonic() - started_s, status))
            if status == 200:
                self.acked += ids
            elif status == 0:
                await asyncio.sleep(0.1)
        if line is not None:
            line[1].close()

    def latency(self, since_s: float, until_s: float) -> str:
        """'p50 / p99 / longest' of the answers to what was sent between these monotonic times."""
        took = sorted(took for at, took, _ in self.answers if since_s <= at < until_s) or [0.0]
        p50, p99, most = took[len(took) // 2], took[int(len(took) * 0.99)], took[-1]
        return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, longest {most * 1000:.0f} ms"

    def longest_s(self) -> float:
        return max(took for _, took, _ in self.answers)


async def counted(bootstrap: str, *loads: Load) -> dict[str, int]:
    """Compare what was acked with what is in Kafka: nothing is missing, nothing is made up, a user's events are there
    in the order in which he sent them (repeats aside), and repeats carry the same content. -> the counts."""
    values = [json.loads(value) for value in await values_of(bootstrap)]
    users = {user for load in loads for user in load._users}
    values = [value for value in values if value["userId"] in users]
    stored = Counter(value["messageId"] for value in values)
    acked = {i for load in loads for i in load.acked}
    sent = {i for load in loads for i in load.sent}
    assert acked - stored.keys() == set(), f"{len(acked - stored.keys())} of {len(acked)} acked events are lost"
    assert stored.keys() - sent == set()
    last: dict[str, int] = {}
    seen: dict[str, Any] = {}
    for value in values:
        message_id = value["messageId"]
        if message_id in seen:
            assert value == seen[message_id], "a repeat differs from what it repeats"
            continue
        seen[message_id] = value
        user, _, number = message_id.rpartition("-")
        assert int(number) > last.get(user, -1), f"{message_id} stands behind {user}-{last[user]}"
        last[user] = int(number)
    return {
        "sent": len(sent), "acked": len(acked), "in Kafka": len(stored), "twice": sum(n > 1 for n in stored.values()),
    }  # fmt: skip


# -- what breaks a worker's surroundings: each leaves everything running again


async def frozen(child: Child, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after `seconds`."""
    os.kill(child.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(child.pid, signal.SIGCONT)


async def restart_kafka(servers: Servers, *, kill: bool = False, away_s: float = 0.0) -> None:
    child = servers.children["kafka"]
    await asyncio.to_thread(child.kill if kill else child.stop)
    await asyncio.sleep(away_s)
    child.start()
    await asyncio.to_thread(await_kafka, child, servers.kafka)


async def rewind_redis(child: Child, lost_bytes: int) -> None:
    """What a power cut does to an append-only file that is fsynced once a second: its end is gone. `child` is a server
    of tracker/embedded/redis.py."""
    await asyncio.to_thread(child.kill)
    assert child.cwd is not None
    log = max(child.cwd.rglob("*.aof"), key=lambda file: file.stat().st_mtime)
    os.truncate(log, max(0, log.stat().st_size - lost_bytes))
    child.start()
    await asyncio.to_thread(await_redis, child, f"redis://127.0.0.1:{redis_port(child)}/0")


def redis_port(child: Child) -> int:
    """Of a server of tracker/embedded/redis.py."""
    assert child.cwd is not None
    port = re.search(r"(?m)^port (\d+)$", (child.cwd / "redis.conf").read_text("utf-8"))
    assert port is not None
    return int(port[1])
