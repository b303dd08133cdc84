"""Stock Faust reading tracker.events.v1 and doing nothing: what its conductor costs an event before any work.

Run by bench/stream.py: `python -m bench.stock_faust BOOTSTRAP COUNT`; prints {"cpu_s", "wall_s", "events"} as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any

import faust
import uvloop

from tracker.contract.topics import EVENTS


async def main(bootstrap: str, count: int, folder: str) -> None:
    app = faust.App(
        f"bench-stock-{time.time_ns()}", broker=f"kafka://{bootstrap}", web_enabled=False, topic_allow_declare=False,
        topic_disable_leader=True, consumer_auto_offset_reset="earliest", stream_wait_empty=False, store="memory://",
        datadir=folder,
    )  # fmt: skip
    done = asyncio.Event()
    start: list[float] = []
    seen = 0

    @app.agent(app.topic(EVENTS, value_type=bytes, value_serializer="raw"))
    async def read(stream: Any) -> None:
        nonlocal seen
        async for _ in stream:
            if not seen:
                start.extend((time.process_time(), time.perf_counter()))
            seen += 1
            if seen >= count:
                done.set()

    task = asyncio.create_task(app.start())
    await done.wait()
    cpu_s, wall_s = time.process_time() - start[0], time.perf_counter() - start[1]
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "events": seen}), flush=True)
    task.cancel()
    shutil.rmtree(folder)
    os._exit(0)  # Stopping Faust takes longer than the measurement.


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), tempfile.mkdtemp(prefix="tracker-bench-")))
