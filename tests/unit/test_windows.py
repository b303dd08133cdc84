"""Buckets and rolling windows: what is in which, in zones with and without daylight saving time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract.durations import DAY_S, HOUR_S
from tracker.contract.windows import WINDOWS, Zone, days, parts, start_of

NOW_S = 1_795_323_600 + 40 * 60 + 7  # 00:40:07 in Ho Chi Minh City, 17:40:07 UTC
VN = "Asia/Ho_Chi_Minh"
ZONES = {name: Zone(name) for name in (VN, "UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")}
some_zone = st.sampled_from(sorted(ZONES))
seconds = st.integers(1_000_000_000, 2_000_000_000)
SHORT = [w for w in WINDOWS.values() if w <= DAY_S]
LONG = [w for w in WINDOWS.values() if w > DAY_S]


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_a_minute_is_the_minute_that_runs_and_the_one_before() -> None:
    assert parts(NOW_S, 60, ZONES[VN]) == [("m", NOW_S - 67), ("m", NOW_S - 7)]


def test_a_day_is_whole_hours_with_minutes_at_its_ends() -> None:
    found = parts(NOW_S, DAY_S, ZONES[VN])
    assert [tier for tier, _ in found] == ["m"] * 20 + ["h"] * 23 + ["m"] * 41
    assert found[0] == ("m", (NOW_S - DAY_S) // 60 * 60)
    assert found[-1] == ("m", NOW_S - 7)


def test_a_week_is_hours_up_to_midnight_whole_days_and_today() -> None:
    now_s = utc("2026-11-25T03:20:00")  # 10:20 in Ho Chi Minh City
    found = parts(now_s, 7 * DAY_S, ZONES[VN])
    hours = [bucket for tier, bucket in found if tier == "h"]
    assert hours == [utc("2026-11-18T03:00:00") + i * HOUR_S for i in range(14)]
    assert [bucket for tier, bucket in found if tier == "d"] == [
        utc(f"2026-11-{day}T00:00:00") for day in range(19, 26)
    ]
    assert len(found) == 21


@pytest.mark.parametrize(
    ("moment", "day"),
    [("2026-11-24T16:59:59", "2026-11-24"), ("2026-11-24T17:00:00", "2026-11-25"), ("2026-11-25T16:59", "2026-11-25")],
)
def test_a_day_in_ho_chi_minh_city_begins_at_17_hours_utc(moment: str, day: str) -> None:
    assert ZONES[VN].day(utc(moment)) == utc(day)


@pytest.mark.parametrize(("date", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-06-01", 24)])
def test_a_date_is_one_bucket_also_when_the_clocks_change(date: str, hours: int) -> None:
    zone = ZONES["America/New_York"]
    begin = int(datetime.fromisoformat(date).replace(tzinfo=ZoneInfo("America/New_York")).timestamp())
    assert {zone.day(begin + i * 60) for i in range(hours * 60)} == {utc(date)}
    assert zone.day(begin - 1) != utc(date) != zone.day(begin + hours * HOUR_S)
    assert zone.after_day(begin + 1) == begin + hours * HOUR_S
    assert len({zone.hour(begin + i * 60) for i in range(hours * 60)}) == hours


@given(some_zone, seconds)
def test_a_moments_buckets_hold_it_and_a_date_is_what_the_calendar_says(name: str, second: int) -> None:
    zone = ZONES[name]
    minute, hour, day = zone.buckets(second)
    assert (hour, day) == (zone.hour(second), zone.day(second))
    assert 0 <= second - minute < 60
    assert 0 <= second - hour < HOUR_S + HOUR_S // 2
    local = datetime.fromtimestamp(second, UTC).astimezone(ZoneInfo(name))
    assert datetime.fromtimestamp(day, UTC).date() == local.date()
    assert zone.day(zone.after_day(second) - 1) == day != zone.day(zone.after_day(second))
    assert zone.hour(zone.after_hour(second) - 1) == hour != zone.hour(zone.after_hour(second))


@pytest.mark.parametrize("window_s", SHORT)
@given(some_zone, seconds)
def test_the_buckets_of_a_short_window_touch_and_hold_it_with_less_than_a_minute_more(
    window_s: int, name: str, now_s: int
) -> None:
    zone = ZONES[name]
    found = parts(now_s, window_s, zone)
    at = start_of(now_s, window_s, zone)
    assert 0 <= (now_s - window_s) - at < 60
    for tier, bucket in found:
        assert bucket == (at if tier == "m" else zone.hour(at))
        at = at + 60 if tier == "m" else zone.after_hour(at)
    assert 0 < at - now_s <= 60


@pytest.mark.parametrize("window_s", WINDOWS.values())
@given(some_zone, seconds, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_every_moment_of_a_window_is_in_exactly_one_of_its_buckets_and_none_from_before_its_edge_is(
    window_s: int, name: str, now_s: int, places: list[float]
) -> None:
    zone = ZONES[name]
    found = parts(now_s, window_s, zone)
    assert len(set(found)) == len(found)
    for place in places:
        at = now_s - int(window_s * place)
        minute, hour, day = zone.buckets(at)
        assert sum(bucket in found for bucket in (("m", minute), ("h", hour), ("d", day))) == 1
    edge_s = 60 if window_s <= DAY_S else HOUR_S if name != "Australia/Lord_Howe" else 2 * HOUR_S
    before = now_s - window_s - edge_s - 1
    assert not {*zip("mhd", zone.buckets(before), strict=True)} & set(found)


@pytest.mark.parametrize("window_s", LONG)
@given(some_zone, seconds)
def test_the_dates_of_a_window_are_all_that_it_touches(window_s: int, name: str, now_s: int) -> None:
    zone = ZONES[name]
    first, last = (datetime.fromtimestamp(zone.day(at), UTC).date() for at in (now_s - window_s, now_s))
    expected = [first + timedelta(n) for n in range((last - first).days + 1)]
    assert [datetime.fromtimestamp(day, UTC).date() for day in days(now_s, window_s, zone)] == expected
