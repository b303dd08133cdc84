"""Which buckets make a rolling window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract.keys import TIERS
from tracker.read_api import WINDOWS, buckets

NOW_S = 1_795_323_600 + 40 * 60 + 7  # 40 min 7 s past an hour


def test_a_minute_is_the_minute_that_runs_and_the_one_before() -> None:
    assert buckets(NOW_S, 60) == [("m", NOW_S - 67), ("m", NOW_S - 7)]


def test_a_day_is_whole_hours_with_minutes_at_its_ends() -> None:
    found = buckets(NOW_S, 86400)
    assert [tier for tier, _ in found] == ["m"] * 20 + ["h"] * 23 + ["m"] * 41
    assert found[0] == ("m", (NOW_S - 86400) // 60 * 60)
    assert found[-1] == ("m", NOW_S - 7)


@pytest.mark.parametrize("window_s", WINDOWS.values())
@given(now_s=st.integers(10**9, 4 * 10**9))
def test_the_buckets_of_a_window_touch_and_hold_it_with_less_than_a_minute_more(window_s: int, now_s: int) -> None:
    found = buckets(now_s, window_s)
    ends = [at + TIERS[tier][0] for tier, at in found]
    assert [at for _, at in found[1:]] == ends[:-1]
    assert all(at % TIERS[tier][0] == 0 for tier, at in found)
    assert 0 <= (now_s - window_s) - found[0][1] < 60
    assert 0 < ends[-1] - now_s <= 60
