"""A site whose clocks change: what is due with a local day, or at a time of day, is so on both sides of the change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core import gate, usage
from stream.core.activity import Activity
from stream.core.activity import Tally as Counted
from stream.core.falling import Rules
from stream.fit.nightly import last_hour_s
from stream.signals.base import Context
from stream.signals.conditions import holds
from stream.signals.purchase import PurchaseSignal
from stream.signals.reorder import _time
from tests.unit.shop_events import context, event
from tracker.contract.durations import DAY_MS, DAY_S, HOUR_MS
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent
from tracker.contract.predicates import Condition
from tracker.contract.sites import TriggerPolicy
from tracker.contract.windows import Zone

CHANGES: Final = [
    ("Europe/Berlin", "2026-03-29"), ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"), ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-10-04"), ("Africa/Cairo", "2026-04-24"), ("Asia/Ho_Chi_Minh", "2026-03-29"),
]  # fmt: skip
"""Cairo's begin at midnight: that day has no 00:00."""
changes: Final = pytest.mark.parametrize(("zone", "date"), CHANGES)


def ms(zone: str, date: str, clock: str = "00:00", days: int = 0, fold: int = 0) -> int:
    """By the calendar, not by the code that is tested."""
    local = datetime.fromisoformat(f"{date}T{clock}") + timedelta(days)
    at = local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)
    if at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != local:  # it is skipped
        at = local.replace(tzinfo=ZoneInfo(zone), fold=1).astimezone(UTC) + timedelta(hours=1)
    return round(at.timestamp() * 1000)


def day_of(date: str, days: int = 0) -> int:
    return (datetime.fromisoformat(date).date() + timedelta(days)).toordinal() - 719_163


def ctx_at(zone: str, now_ms: int, **more: Any) -> Context:
    known = Zone(zone)
    return context(zone=known, utc_offset_ms=known.offset_s(now_ms // 1000) * 1000, **more)


@given(
    st.sampled_from(sorted({zone for zone, _ in CHANGES} | {"Asia/Kolkata", "UTC", "America/Santiago"})),
    st.integers(1_000_000_000, 2_000_000_000),
)
def test_a_local_time_is_when_the_clocks_show_it_first(name: str, second: int) -> None:
    zone = Zone(name)
    local = second + zone.offset_s(second)
    found = zone.of_local(local)
    assert found + zone.offset_s(found) == local
    assert found in (second, second - 3600, second - 1800)
    assert zone.of_local(local, after_s=second - 1) == second
    assert zone.of_local(local, after_s=second) > second
    date = zone.date_of(second * 1000)
    begin = zone.begins_ms(date)
    assert zone.date_of(begin) == date == zone.date_of(begin - 1000) + 1


@changes
def test_a_fall_of_usage_is_told_at_the_start_of_a_local_day(zone: str, date: str) -> None:
    """Twelve days of use, the last some days before the change, as of ctx at the last event."""
    for before in range(10):
        known = Zone(zone)
        last = day_of(date, -before)
        state = None
        rules = Rules(0.5, 0.75, 5, 14 * DAY_MS)
        for day in range(last - 11, last + 1):
            state = usage.used(state, day, 60_000, 0, known, rules)
        assert state is not None
        fall = usage.merged(state, state, known, rules).fall
        assert fall.due_ms is not None
        due = known.date_of(fall.due_ms)
        assert fall.due_ms == ms(zone, "1970-01-01", days=due)
        level = usage.series(state, known).level(due)
        assert level is not None
        assert level.recent / level.before < 0.5


@changes
@pytest.mark.parametrize("quiet", ["21:00-08:00", "23:30-02:30", "00:00-03:30"])
def test_quiet_hours_end_at_the_site_s_time_of_day(zone: str, date: str, quiet: str) -> None:
    rules = gate.rules_of(TriggerPolicy(quiet_hours=quiet))
    begin, end = quiet.split("-")
    at = ms(zone, date, days=-1)
    for minute in range(0, 3 * 1440, 10):
        moment = at + minute * 60_000
        local = datetime.fromtimestamp(moment / 1000, ZoneInfo(zone)).strftime("%H:%M")
        is_quiet = begin <= local < end if begin < end else local >= begin or local < end
        found = gate.quiet_until(rules, moment, Zone(zone))
        assert (found is not None) == is_quiet, local
        if found is not None:
            shown = datetime.fromtimestamp(found / 1000, ZoneInfo(zone)).strftime("%H:%M")
            assert shown == end or (shown, end) == ("03:00", "02:30"), "that night the clocks skip 02:30"
            assert 0 < found - moment <= 12.5 * HOUR_MS
            assert gate.quiet_until(rules, found, Zone(zone)) is None


@changes
def test_a_customer_s_age_begins_with_the_local_day(zone: str, date: str) -> None:
    for clock in ("01:30", "12:00", "23:59"):
        order: ProfileEvent = msgspec.structs.replace(
            event(ORDER_COMPLETED, 0, {"order_id": "o", "total": 5}), timestamp_ms=ms(zone, date, clock)
        )
        state = PurchaseSignal().fold(None, order, ctx_at(zone, order.timestamp_ms)).state
        assert state.days == (day_of(date),)
        assert state.zero_ms == ms(zone, date)


@changes
def test_a_count_of_local_days_changes_at_midnight(zone: str, date: str) -> None:
    """`count of the last 3 days >= 1`, of one event on the day before the change."""
    day = day_of(date, -1)
    now_ms = ms(zone, date, "00:30", days=-1)
    states = {"activity": Activity(now_ms, {"Product Viewed": Counted(1, now_ms, ((day, 1),))})}
    condition = Condition(field="count", op=">=", value=1, event="Product Viewed", days=3)
    truth, until_ms = holds(condition, now_ms, ctx_at(zone, now_ms, states=states))
    assert truth
    assert until_ms == ms(zone, date, days=2)


@changes
@pytest.mark.parametrize("clock", ["00:10", "23:50"])
def test_a_count_of_local_days_is_of_today_also_at_an_event_from_before_the_change(
    zone: str, date: str, clock: str
) -> None:
    """An event of the last day alone, judged two days after the change, as of a late event that was before it."""
    at_ms, now_ms = ms(zone, date, "12:00", days=-3), ms(zone, date, clock, days=2)
    condition = Condition(field="count", op=">=", value=1, event="page", days=1)
    for day, is_today in ((day_of(date, 1), False), (day_of(date, 2), True)):
        states = {"activity": Activity(at_ms, {"page": Counted(1, now_ms, ((day, 1),))})}
        truth, _ = holds(condition, now_ms, ctx_at(zone, at_ms, states=states))
        assert truth is is_today


@changes
def test_sessions_of_days_are_counted_by_the_local_day_on_which_they_began(zone: str, date: str) -> None:
    first, last = ms(zone, date, "23:30", days=-5), ms(zone, date, "23:30", days=4)
    state = Activity(first, sessions=((first, first), (last, last)))
    assert state.sessions_since(day_of(date, -5), Zone(zone)) == 2
    assert state.sessions_since(day_of(date, -4), Zone(zone)) == 1
    assert state.sessions_since(day_of(date, 4), Zone(zone)) == 1


@changes
def test_a_subscription_ends_at_the_site_s_midnight_whenever_that_was_said(zone: str, date: str) -> None:
    for days in (-1, 0, 1, 90):
        end = (datetime.fromisoformat(date) + timedelta(days)).date().isoformat()
        assert _time(end, Zone(zone)) == ms(zone, date, days=days)


@changes
def test_the_night_s_fit_is_at_its_hour(zone: str, date: str) -> None:
    for days in (-1, 0, 1):
        at = ms(zone, date, "04:00", days=days) // 1000
        for later in (0, 3600, DAY_S // 2):
            assert last_hour_s(at + later, 4, Zone(zone)) == at
