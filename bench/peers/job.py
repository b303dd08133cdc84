"""The job that every engine of bench/stream_peers.py does: three windowed counters a visitor.

Each record of tracker.events.v1 is decoded from JSON and counted for its visitor (the record's key) in the minute, the
hour and the day of its `timestampMs`. An engine is a process:

    python -m bench.peers.NAME BOOTSTRAP TOPIC COUNT WARM OUT [...]

It reads the topic from its beginning and prints "mark N" once N >= WARM events had their effect and "done N" after all
COUNT; the bench reads the process's CPU clock at both lines. Then it writes its counters to OUT (`write`), which the
bench compares with its own, and prints "wrote".
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

TIERS: Final = {"m": 60, "h": 3600, "d": 86400}
"""Tier -> length of its windows in seconds; days are UTC's."""

Key = tuple[str, int, str]
"""Tier, start of the window in epoch seconds, visitor."""


class Event(msgspec.Struct):
    """What the job reads of an event."""

    anonymousId: str
    timestampMs: int


decode: Final = msgspec.json.Decoder(Event).decode


class Task(NamedTuple):
    """The arguments of an engine's process."""

    bootstrap: str
    topic: str
    events: int
    warm: int
    out: Path
    rest: list[str]


def task(argv: list[str]) -> Task:
    bootstrap, topic, count, warm, out, *rest = argv[1:]
    return Task(bootstrap, topic, int(count), int(warm), Path(out), rest)


def say(word: str, n: int | None = None) -> None:
    sys.stdout.write(f"{word}\n" if n is None else f"{word} {n}\n")
    sys.stdout.flush()


def expected(events: Iterable[bytes]) -> Counter[Key]:
    """The counters after these events, counted one by one."""
    found: Counter[Key] = Counter()
    for value in events:
        event = decode(value)
        at_s = event.timestampMs // 1000
        for tier, length_s in TIERS.items():
            found[tier, at_s - at_s % length_s, event.anonymousId] += 1
    return found


def write(out: Path, counters: Iterable[tuple[Key, int]]) -> None:
    with out.open("w", encoding="utf-8") as f:
        for (tier, start_s, visitor), n in counters:
            f.write(f"{tier}\t{start_s}\t{visitor}\t{n}\n")
    say("wrote")


def read(out: Path) -> Counter[Key]:
    found: Counter[Key] = Counter()
    with out.open(encoding="utf-8") as f:
        for line in f:
            tier, start_s, visitor, n = line.rstrip("\n").split("\t")
            found[tier, int(start_s), visitor] += int(n)
    return found


def difference(want: Counter[Key], have: Counter[Key]) -> str | None:
    """The first counter that differs, in words; None when all are equal."""
    for key in want.keys() | have.keys():
        if want[key] != have[key]:
            tier, start_s, visitor = key
            return f"{visitor} in {tier} {start_s}: {have[key]} instead of {want[key]}"
    return None
