"""How much poison stops a worker."""

from __future__ import annotations

import pytest

from stream.poison import REASONS, Limits, TooMuchPoison, Verdict
from tracker.contract.loading import load

BAD, GOOD = "not_an_event", None


def limits(run: int = 5, ratio: float = 0.5, window: int = 20) -> Limits:
    chosen = {"TRACKER_POISON_RUN": run, "TRACKER_POISON_RATIO": ratio, "TRACKER_POISON_WINDOW_RECORDS": window}
    return Limits("t", load({name: str(value) for name, value in chosen.items()}))


def read(limits: Limits, base: int, *reasons: str | None, partition: int = 0) -> None:
    """A chunk that has its effect."""
    verdicts = [Verdict(base + n, reason) for n, reason in enumerate(reasons)] if any(reasons) else []
    limits.keep(limits.check(partition, len(reasons), verdicts))


def test_a_chunk_that_is_all_poison_stops_the_worker_before_it_has_an_effect_and_says_all_that_is_needed() -> None:
    with pytest.raises(TooMuchPoison) as e:
        read(limits(), 40, *[BAD] * 30)
    told = str(e.value)
    assert "\n" not in told
    assert told.startswith("t[0]: 5 records in a row can't be used, from offset 40: not_an_event.")
    assert REASONS["not_an_event"] in told
    assert "TRACKER_POISON_RUN=0" in told


def test_a_run_goes_on_over_chunks_and_is_of_one_partition() -> None:
    some = limits()
    read(some, 0, GOOD, BAD, BAD)
    read(some, 0, BAD, BAD, partition=1)
    read(some, 3, BAD, BAD)
    with pytest.raises(TooMuchPoison, match="from offset 1:"):
        read(some, 5, BAD)


def test_one_good_event_ends_a_run() -> None:
    some = limits(ratio=0)
    for base in range(0, 100, 5):
        read(some, base, *[BAD] * 4, GOOD)
    read(some, 100, *[BAD] * 4)
    read(some, 104, GOOD)
    read(some, 105, *[BAD] * 4)


def test_a_chunk_without_events_leaves_the_run_as_it_is() -> None:
    some = limits()
    read(some, 0, *[BAD] * 4)
    read(some, 4)  # a clock record
    with pytest.raises(TooMuchPoison):
        read(some, 5, BAD)


def test_chunks_of_clock_records_alone_take_no_memory_however_many_come() -> None:
    some = limits(window=20)
    read(some, 0, GOOD)
    for offset in range(1, 1000):
        read(some, offset)
    assert len(some._chunks) == 1


def test_a_chunk_that_is_read_again_after_an_outage_counts_once() -> None:
    some = limits()
    for _ in range(20):
        some.check(0, 3, [Verdict(n, BAD) for n in range(3)])
    read(some, 0, BAD, BAD, BAD)
    read(some, 3, BAD)


def test_a_large_part_of_the_window_stops_the_worker_over_all_its_partitions() -> None:
    some = limits()
    for p in range(6):
        read(some, 0, BAD, BAD, GOOD, partition=p)
    with pytest.raises(TooMuchPoison, match=r"t\[7\]: 14 of the last 21 records can't be used, from offset 9"):
        read(some, 9, BAD, BAD, GOOD, partition=7)


def test_the_window_forgets() -> None:
    some = limits()
    for p in range(6):
        read(some, 0, BAD, BAD, GOOD, partition=p)
    for p in range(6):
        read(some, 3, *[GOOD] * 10, partition=p)
        read(some, 13, BAD, GOOD, BAD, GOOD, partition=p)
    assert some._events < 40


def test_half_is_not_more_than_half_and_a_window_that_is_not_full_stops_nothing() -> None:
    some = limits()
    read(some, 0, *[BAD, GOOD] * 10)
    fresh = limits()
    read(fresh, 0, *[BAD, BAD, BAD, GOOD] * 4)


def test_zero_lets_everything_pass() -> None:
    read(limits(run=0, ratio=0), 0, *[BAD] * 1000)


def test_what_anybody_with_a_write_key_can_send_does_not_stop_the_workers() -> None:
    read(limits(), 0, *["no_identity"] * 1000)
    with pytest.raises(TooMuchPoison):
        read(limits(), 0, *["fold_failed"] * 1000)
