"""The wait between two looks at a topic: none when calm, longer when the process is short of CPU."""

from __future__ import annotations

from stream.pace import FULL_LINGER_S, LINGER_S, MOST_LINGER_S, Pace


def run(
    pace: Pace, seconds: float, records_s: float, cpu_share: float, *, start_s: float = 0.0, most: int = 2000
) -> float:
    """Look every 0.1 s, 64 chunks each time; the time at the end."""
    looks = round(seconds / 0.1)
    for n in range(1, looks + 1):
        past_s = n * 0.1
        now_s = start_s + past_s
        pace.fetched(round(records_s * 0.1), 64, most, now_s, (start_s + past_s) * cpu_share)
    return start_s + seconds


def test_a_calm_topic_is_looked_at_at_once() -> None:
    pace = Pace()
    end_s = run(pace, 5.0, 100, 0.1)
    assert pace.ahead_at_s <= end_s
    assert pace.rest_at_s <= end_s


def test_under_load_looks_wait_for_more() -> None:
    pace = Pace()
    end_s = run(pace, 5.0, 2000, 0.2)
    assert round(pace.ahead_at_s - end_s, 6) == round(pace.rest_at_s - end_s, 6) == LINGER_S


def test_the_wait_grows_while_cpu_is_short_to_its_bound_and_shrinks_back() -> None:
    pace = Pace()
    end_s = run(pace, 2.0, 2000, 0.9)
    assert LINGER_S < pace.linger_s < MOST_LINGER_S
    end_s = run(pace, 20.0, 2000, 0.9, start_s=end_s)
    assert pace.linger_s == MOST_LINGER_S
    run(pace, 20.0, 2000, 0.1, start_s=end_s)
    assert pace.linger_s == LINGER_S


def test_large_chunks_are_not_waited_for() -> None:
    pace = Pace()
    run(pace, 10.0, 64 * 150 * 10, 1.0, most=100_000)
    assert pace.linger_s == LINGER_S


def test_with_a_backlog_only_the_topic_that_is_read_first_waits() -> None:
    pace = Pace()
    end_s = run(pace, 2.0, 20_000, 1.0)
    assert round(pace.ahead_at_s - end_s, 6) == FULL_LINGER_S
    assert pace.rest_at_s <= end_s
