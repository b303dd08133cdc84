"""The job of job.py on quixstreams: a tumbling window a tier in RocksDB, with changelog topics.

RocksDB can't be read beside a running Application, so the counters are what the windows give after every event.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from bench.peers.job import TIERS, Key, Task, decode, say, task, write


def main(job: Task, folder: str) -> None:
    quixstreams: Any = importlib.import_module("quixstreams")  # lies outside the environment: `make peers`
    app = quixstreams.Application(
        broker_address=job.bootstrap, consumer_group=job.rest[0], auto_offset_reset="earliest", state_dir=folder,
        loglevel="WARNING",
    )  # fmt: skip

    class TimestampMs(quixstreams.models.Deserializer):  # type: ignore[misc]
        """The event as what the windows need of it."""

        def __call__(self, value: bytes, ctx: object) -> int:
            return decode(value).timestampMs

    topic = app.topic(
        job.topic,
        key_deserializer="str",
        value_deserializer=TimestampMs(),
        timestamp_extractor=lambda timestamp_ms, *_: timestamp_ms,
    )
    counters: dict[Key, int] = {}
    seen = 0

    def keep(tier: str) -> Callable[..., None]:
        def kept(window: dict[str, int], key: str, *_: object) -> None:
            counters[tier, window["start"] // 1000, key] = window["value"]

        return kept

    def progress(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == job.warm:
            say("mark", seen)
        if seen == job.events:
            say("done", seen)
            write(job.out, counters.items())
            os._exit(0)  # Its last checkpoint is not in the measurement.

    events = app.dataframe(topic)
    for tier, length_s in TIERS.items():
        window = events.tumbling_window(timedelta(seconds=length_s)).count().current()
        window.update(keep(tier), metadata=True)
    events.update(progress)
    app.run()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tracker-bench-") as folder:
        main(task(sys.argv), folder)
