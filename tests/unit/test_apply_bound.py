"""How many records one atomic step may carry."""

from __future__ import annotations

from collections.abc import Callable

from stream.signals_hop import ApplyBound
from tracker.contract.loading import load


def play(bound: ApplyBound, us_a_record: Callable[[int], float], calls: int) -> list[float]:
    """The times of `calls` full calls, us."""
    took = []
    for n in range(calls):
        us = bound.records * us_a_record(n)
        took.append(us)
        bound.took(bound.records, int(us))
    return took


def test_steps_grow_while_redis_is_fast_up_to_a_whole_chunk() -> None:
    bound = ApplyBound(load({}))
    assert bound.records == 1000
    assert max(play(bound, lambda n: 1.0, 30)) <= 5000
    assert bound.records == 2000


def test_when_records_get_dear_steps_become_smaller_until_they_fit() -> None:
    bound = ApplyBound(load({}))
    play(bound, lambda n: 1.0, 30)
    took = play(bound, lambda n: 10.0, 50)
    assert took[0] == 20_000
    assert max(took[30:]) < 5200
    assert min(took[30:]) > 4500


def test_one_call_that_had_to_wait_hardly_changes_anything() -> None:
    bound = ApplyBound(load({}))
    play(bound, lambda n: 4.0, 30)
    usual = bound.records
    bound.took(usual, 1_000_000)
    assert bound.records > 0.7 * usual


def test_a_step_is_never_so_small_that_steps_cost_more_than_records() -> None:
    bound = ApplyBound(load({}))
    play(bound, lambda n: 10_000.0, 50)
    assert bound.records == 250


def test_a_small_chunk_says_nothing_of_large_ones() -> None:
    bound = ApplyBound(load({}))
    bound.took(3, 4000)
    assert bound.records == 1000


def test_the_setting_is_the_target() -> None:
    bound = ApplyBound(load({"TRACKER_APPLY_TARGET_MS": "50"}))
    play(bound, lambda n: 100.0, 60)
    assert 450 <= bound.records <= 550


def test_records_that_write_much_go_in_smaller_steps_than_the_least_and_the_others_come_back() -> None:
    bound = ApplyBound(load({}))
    for _ in range(30):
        bound.took(bound.records, bound.records * 4, bound.records * 50_000)  # merged profiles
    assert bound.records <= 25
    for _ in range(60):
        bound.took(bound.records, bound.records * 4, bound.records * 200)
    assert bound.records >= 1000


def test_a_few_records_hardly_say_how_much_many_would_write() -> None:
    bound = ApplyBound(load({}))
    bound.took(1, 500, 200_000)
    assert bound.records > 900
