"""How long records wait for company on their way to Kafka."""

from __future__ import annotations

import pytest

from tracker.contract.linger import FLOW, Linger


def flow(linger: Linger, records: int, batches: int, flushes: int, now_s: float = 100.0) -> float:
    """Flushes one behind the other; the time of the last one."""
    for _ in range(flushes):
        now_s += linger.wait_s(now_s)
        linger.flushed(records, batches, now_s)
    return now_s


def test_a_flow_that_leaves_batches_nearly_empty_waits_longer_up_to_the_bound() -> None:
    linger = Linger(0.005, 0.020)
    now_s = flow(linger, 60, 50, 1)
    assert 0.005 < linger.wait_s(now_s) < 0.020
    assert linger.wait_s(flow(linger, 60, 50, 20)) == 0.020


def test_a_lone_record_waits_no_longer_than_the_least() -> None:
    linger = Linger(0.005, 0.020)
    now_s = flow(linger, 60, 50, 20)
    assert linger.wait_s(now_s + 0.021) == 0.005
    now_s = flow(linger, 60, 50, 20)
    linger.flushed(1, 1, now_s)
    assert linger.wait_s(now_s) == 0.005


def test_few_records_at_a_time_are_no_flow() -> None:
    linger = Linger(0.005, 0.020)
    assert linger.wait_s(flow(linger, FLOW - 1, FLOW - 1, 20)) == 0.005


def test_well_filled_batches_wait_less_again() -> None:
    linger = Linger(0.005, 0.020)
    now_s = flow(linger, 60, 50, 20)
    assert linger.wait_s(flow(linger, 1000, 50, 20, now_s)) == 0.005


@pytest.mark.parametrize("least_s", [0.0, 0.005, 0.5])
def test_without_room_to_grow_it_stays(least_s: float) -> None:
    linger = Linger(least_s, 0.0)
    assert linger.wait_s(flow(linger, 60, 50, 20)) == least_s


def test_it_grows_from_zero() -> None:
    linger = Linger(0.0, 0.020)
    assert linger.wait_s(flow(linger, 60, 50, 20)) == 0.020
