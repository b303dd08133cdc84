"""Sessions and active days of a person, in whatever order the events come (domain: A004, A106)."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stream.core import activity
from stream.core.activity import MAX_SESSIONS, Activity
from tracker.contract.durations import DAY_MS
from tracker.contract.windows import Zone

H = 3_600_000
OFFSET_MS = 7 * H
ZONE = Zone("Asia/Ho_Chi_Minh")
T0 = 20_700 * DAY_MS - OFFSET_MS
"""A local midnight."""


def came(*hours: float, state: Activity | None = None) -> Activity:
    state = state or Activity(T0)
    for at in hours:
        ms = T0 + round(at * H)
        state = activity.visit(state, ms, (ms + OFFSET_MS) // DAY_MS, ZONE)
    return state


def numbers(state: Activity, day: int) -> tuple[int, int, int, float | None]:
    """(sessions, of 7 days, of 30 days, mean gap in hours) as of a day after T0."""
    since = [state.sessions_since(20_700 + day - d + 1, ZONE) for d in (7, 30)]
    return state.session_count, since[0], since[1], state.mean_gap_ms and state.mean_gap_ms / H


def test_sessions_of_7_and_30_days_and_the_mean_gap() -> None:
    assert numbers(came(1), 0) == (1, 1, 1, None)
    assert numbers(came(1, 3, 24 * 10 + 1), 10) == (3, 1, 3, 120.0)
    assert numbers(came(1, 3, 24 * 10 + 1), 36) == (3, 0, 1, 120.0)


def test_sessions_that_are_only_counted_keep_their_day() -> None:
    state = came(*range(0, 24 * 40, 4))
    assert len(state.sessions) == MAX_SESSIONS
    assert numbers(state, 39) == (240, 42, 180, 4.0)
    assert len(state.past) <= activity.PAST_D


@given(st.lists(st.integers(0, 24 * 20), min_size=1, max_size=60, unique=True), st.randoms(use_true_random=False))
def test_two_profiles_that_become_one_have_the_sessions_of_both(hours: list[int], draw: random.Random) -> None:
    """Of each its own visits, the latest known one by one, the others by their day."""
    mine = [h for h in hours if draw.random() < 0.5]
    theirs = [h for h in hours if h not in mine]
    one, other = came(*sorted(mine)), came(*sorted(theirs))
    merged, again = (activity.merge(a, b, {}, ZONE) for a, b in ((one, other), (other, one)))
    assert merged == again
    assert merged.session_count == len(hours)
    assert numbers(merged, 19)[2] == len(hours)
    if len(hours) > 1:
        assert merged.mean_gap_ms == (max(hours) - min(hours)) * H / (len(hours) - 1)
