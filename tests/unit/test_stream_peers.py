"""bench/stream_peers.py: an engine that counts otherwise than the input is an error, one that is missing says why."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench.load import events
from bench.peers import job
from bench.running import Servers
from bench.stream_peers import Clocks, Engine, Missing, Record, Wrong, cost, engines, run_engine
from tests.harness import ROOT

RECORDS: list[Record] = list(events(400, 30, span_ms=180_000))
WANT = job.expected(value for _, value in RECORDS)
ON = Servers("127.0.0.1:1", "redis://127.0.0.1:1/0", os.getpid(), os.getpid())

COUNTS_ALL = """\
import sys
from bench.peers.job import expected, say, task, write
from bench.load import events
job = task(sys.argv)
say("mark", job.warm)
say("done", job.events)
with open(job.rest[0], "rb") as f:
    counters = expected(f.read().splitlines())
{change}
write(job.out, counters.items())
"""


def engine(folder: Path, change: str = "") -> Engine:
    """A process as an engine is one, that reads its records from a file instead of Kafka."""
    log = folder / "records"
    log.write_bytes(b"\n".join(value for _, value in RECORDS))
    program = [sys.executable, "-c", COUNTS_ALL.format(change=change)]
    return Engine("made-up", "a made-up engine", lambda *_: (program, [str(log)], {"PYTHONPATH": str(ROOT)}))


def test_every_event_counts_once_in_a_window_of_each_tier() -> None:
    assert {tier: sum(n for (t, _, _), n in WANT.items() if t == tier) for tier in job.TIERS} == dict.fromkeys(
        job.TIERS, len(RECORDS)
    )
    assert all(start_s % job.TIERS[tier] == 0 for tier, start_s, _ in WANT)
    value = msgspec.json.encode({"anonymousId": "a", "timestampMs": 86_400_000 + 3_600_000 + 60_000 + 999})
    assert set(job.expected([value])) == {("m", 90_060, "a"), ("h", 90_000, "a"), ("d", 86_400, "a")}


def test_an_engine_that_counts_right_gives_its_cost(tmp_path: Path) -> None:
    found = run_engine(ON, engine(tmp_path), 4, RECORDS, WANT)
    assert found.events_s > 0


@pytest.mark.parametrize(
    "change",
    [
        "counters[next(iter(counters))] += 1",
        "counters.pop(next(iter(counters)))",
        "counters['m', 0, 'nobody'] = 1",
    ],
    ids=["one more", "one missing", "one made up"],
)
def test_one_counter_that_differs_is_an_error(tmp_path: Path, change: str) -> None:
    with pytest.raises(Wrong, match=r"made-up counted wrong: \S+ in [mhd] \d+: \d+ instead of \d+"):
        run_engine(ON, engine(tmp_path, change), 4, RECORDS, WANT)


def test_an_engine_that_dies_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="made-up ended before the events did: no state"):
        run_engine(ON, engine(tmp_path, "raise SystemExit('no state')"), 4, RECORDS, WANT)


def test_without_a_jdk_or_quixstreams_a_row_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    told = {}
    for each in engines(tmp_path):
        try:
            each.command(ON, 4, tmp_path)
        except Missing as e:
            told[each.name] = str(e)
    assert told == {
        "kafka-streams": "no javac: install a JDK of 17 or newer, or set JAVA_HOME",
        "kafka-streams-eos": "no javac: install a JDK of 17 or newer, or set JAVA_HOME",
        "quixstreams": f"quixstreams is not in {tmp_path}: `make peers` brings it",
    }


def test_a_core_does_the_work_of_the_engine_and_of_its_redis() -> None:
    begin, end = Clocks(100, 10.0, 1.0, 2.0, 3.0), Clocks(1100, 12.0, 1.004, 2.001, 3.003)
    found = cost(begin, end, in_redis=True)
    assert found.events_s == pytest.approx(500)
    assert (found.engine_us, found.redis_us, found.kafka_us) == pytest.approx((4.0, 1.0, 3.0))
    assert found.core_s == pytest.approx(200_000)
    assert cost(begin, end, in_redis=False).core_s == pytest.approx(250_000)


def test_counters_are_read_as_they_were_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.write(tmp_path / "counters", WANT.items())
    assert capsys.readouterr().out == "wrote\n"
    assert job.read(tmp_path / "counters") == WANT
    assert job.difference(WANT, Counter(WANT)) is None
