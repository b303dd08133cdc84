"""How long a fetch lets the broker gather: not at all when calm, longer when the process is short of CPU."""

from __future__ import annotations

from stream.pace import ENOUGH_BYTES, FULL_LINGER_S, MOST_LINGER_S, Look, Pace

LINGER_S = 0.08


def run(
    pace: Pace, seconds: float, records_s: float, cpu_share: float, *, start_s: float = 0.0, full: bool = False
) -> float:
    """Look every 0.1 s, 64 chunks each time; the time at the end."""
    looks = round(seconds / 0.1)
    for n in range(1, looks + 1):
        past_s = n * 0.1
        now_s = start_s + past_s
        rest = Look(round(records_s * 0.1), 64, full)
        pace.fetched(Look(0, 0, False), rest, now_s, (start_s + past_s) * cpu_share)
    return start_s + seconds


def test_a_calm_topic_brings_its_first_record_at_once() -> None:
    pace = Pace(0.1, LINGER_S)
    assert (pace.min_bytes, pace.wait_ms) == (1, 100)
    end_s = run(pace, 5.0, 100, 0.1)
    assert (pace.min_bytes, pace.wait_ms) == (1, 100)
    assert pace.ahead_at_s <= end_s


def test_under_load_the_broker_gathers() -> None:
    pace = Pace(0.1, LINGER_S)
    end_s = run(pace, 5.0, 2000, 0.2)
    assert (pace.min_bytes, pace.wait_ms) == (ENOUGH_BYTES, LINGER_S * 1000)
    assert pace.ahead_at_s <= end_s
    run(pace, 5.0, 100, 0.2, start_s=end_s)
    assert (pace.min_bytes, pace.wait_ms) == (1, 100)


def test_the_wait_grows_while_cpu_is_short_to_its_bound_and_shrinks_back() -> None:
    pace = Pace(0.1, LINGER_S)
    end_s = run(pace, 2.0, 2000, 0.9)
    assert LINGER_S < pace.linger_s < MOST_LINGER_S
    end_s = run(pace, 20.0, 2000, 0.9, start_s=end_s)
    assert pace.wait_ms == MOST_LINGER_S * 1000
    run(pace, 20.0, 2000, 0.1, start_s=end_s)
    assert pace.wait_ms == LINGER_S * 1000


def test_a_wait_that_was_asked_for_is_kept_however_the_cpu_is() -> None:
    pace = Pace(0.1, 2 * MOST_LINGER_S)
    for start_s, share in (0.0, 0.9), (20.0, 0.1):
        run(pace, 20.0, 2000, share, start_s=start_s)
        assert pace.wait_ms == 2 * MOST_LINGER_S * 1000


def test_large_chunks_are_not_waited_for() -> None:
    pace = Pace(0.1, LINGER_S)
    run(pace, 10.0, 64 * 150 * 10, 1.0)
    assert pace.linger_s == LINGER_S


def test_with_a_backlog_no_broker_waits_but_the_topic_that_is_read_first_does() -> None:
    pace = Pace(0.1, LINGER_S)
    end_s = run(pace, 2.0, 20_000, 1.0, full=True)
    assert round(pace.ahead_at_s - end_s, 6) == FULL_LINGER_S
    assert pace.rest_at_s <= end_s
    assert (pace.min_bytes, pace.wait_ms) == (1, 100)


def test_a_backlog_at_one_topic_keeps_the_one_that_is_read_first_waiting_no_longer() -> None:
    """It is looked at when its time has come, however often the others bring a full look meanwhile."""
    pace = Pace(0.1, LINGER_S)
    end_s = run(pace, 2.0, 20_000, 1.0, full=True)
    due_s = pace.ahead_at_s
    assert due_s > end_s
    pace.fetched(None, Look(2000, 2, True), due_s - 0.01, end_s)
    assert pace.ahead_at_s == due_s
    pace.fetched(Look(2000, 2, True), None, due_s + 0.01, end_s)
    assert pace.ahead_at_s == due_s + 0.01, "it has more: at once again"
    pace.fetched(Look(700, 64, False), Look(2000, 2, True), due_s + 0.02, end_s)
    assert round(pace.ahead_at_s - due_s - 0.02, 6) == FULL_LINGER_S


def test_a_backlog_ends_some_time_after_its_last_sign() -> None:
    pace = Pace(0.1, LINGER_S)
    end_s = run(pace, 2.0, 2000, 0.2, full=True)
    end_s = run(pace, 0.5, 2000, 0.2, start_s=end_s)
    assert pace.min_bytes == 1
    assert round(pace.ahead_at_s - end_s, 6) == round(pace.rest_at_s - end_s, 6) == LINGER_S
    end_s = run(pace, 1.0, 2000, 0.2, start_s=end_s)
    assert pace.min_bytes == ENOUGH_BYTES
    assert pace.ahead_at_s <= end_s
    assert pace.rest_at_s <= end_s
