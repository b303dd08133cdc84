"""More than the endpoint can serve, over a Kafka that stops for some seconds.

What can't be taken is told so at once, memory stays bounded, nothing acked is lost, and it recovers by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.endpoint import SHOP, create_topics, endpoint, message_ids, metric, port_of
from tests.harness import Servers, eventually
from tracker.cli.up import ready
from tracker.embedded.process import Child

pytestmark = pytest.mark.integration

CONNECTIONS = 200
EVENTS = 20
PATIENCE_S = 0.2
PENDING_BYTES = 4 << 20
PRODUCE_S = 1.5
FROZEN_S = 3.0


class Crowd:
    """Connections that send batches as fast as they are answered, and at once again when they are refused.

    Every second one hangs up when it is not answered within PATIENCE_S, and comes again: what it sent still waits.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.acked: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.gave_up = 0
        self.without_retry_after = 0
        self.slowest_refusal_s = 0.0
        self.stop = False

    async def client(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        events = [
            {
                "type": "page",
                "userId": f"u{number}",
                "messageId": f"{number}-COUNT-{i}",
                "properties": {"x": "y" * 2500},
            }
            for i in range(EVENTS)
        ]
        template = json.dumps({"batch": events})
        try:
            for count in itertools.count(100_000):  # of one length
                if self.stop:
                    break
                body = template.replace("COUNT", str(count)).encode()
                sent_s = time.monotonic()
                writer.write(
                    b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: %s\r\nContent-Length: %d\r\n\r\n%s"
                    % (SHOP.write_key.encode(), len(body), body)
                )
                try:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S if number % 2 else 20)
                except TimeoutError:
                    self.gave_up += 1
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    continue
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                status = int(head[9:12])
                self.statuses[status] += 1
                if status == 200:
                    self.acked += [f"{number}-{count}-{i}" for i in range(EVENTS)]
                else:
                    self.without_retry_after += b"retry-after: " not in head
                    self.slowest_refusal_s = max(self.slowest_refusal_s, time.monotonic() - sent_s)
        finally:
            writer.close()


def memory_bytes(child: Child, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


async def test_ten_times_the_load_is_refused_at_once_in_bounded_memory_and_it_recovers(
    own_servers: Callable[[], Servers], tmp_path: Path
) -> None:
    servers = own_servers()
    settings = {"produce_timeout_s": PRODUCE_S, "max_pending_bytes": PENDING_BYTES, "spool_dir": "", "drain_s": 4}
    with endpoint(tmp_path, servers.kafka, servers.redis, **settings) as child:
        port = port_of(child)
        create_topics(servers)
        await eventually(lambda: ready("127.0.0.1", port))
        before = memory_bytes(child, "VmRSS")
        crowd, kafka = Crowd(port), servers.children["kafka"]

        async def taken(more: int) -> bool:
            return crowd.statuses[200] >= more

        async with asyncio.TaskGroup() as clients:
            for i in range(CONNECTIONS):
                clients.create_task(crowd.client(i))
            await eventually(partial(taken, 50))
            os.kill(kafka.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(FROZEN_S)
            finally:
                os.kill(kafka.pid, signal.SIGCONT)
            frozen = crowd.statuses.copy()
            await eventually(partial(taken, frozen[200] + 50))
            crowd.stop = True
        # A client that asked while Kafka stood had its answer in time, most of them at once.
        assert set(crowd.statuses) <= {200, 429, 503}
        assert frozen[503] > CONNECTIONS
        assert crowd.gave_up > 20
        assert crowd.without_retry_after == 0
        assert crowd.slowest_refusal_s < PRODUCE_S + 3
        # Requests that wait, their bodies as they are read, answers, and what the allocator keeps.
        assert memory_bytes(child, "VmHWM") - before < PENDING_BYTES + CONNECTIONS * (64 << 10) + (16 << 20)
        assert metric(port, "tracker_events_rejected_total", reason="overloaded") > 0
        assert metric(port, "tracker_producer_queue_bytes") <= PENDING_BYTES
        assert child.stop() == 0
    stored = Counter(await message_ids(servers.kafka))
    assert crowd.acked
    assert not [id_ for id_ in crowd.acked if stored[id_] != 1]
