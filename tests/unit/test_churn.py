"""The churn models against their vectors, their limits, and the signal that they drive."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.churn import (
    COLD,
    Params,
    risk,
)
from stream.signals.base import Context, Result
from stream.signals.churn import DAY_MS, MAX_DAYS, Purchases, PurchaseSignal
from tests.unit.cart_vectors import SETTINGS, T0_MS, context, event
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent
from tracker.contract.settings import Settings
from tracker.contract.triggers import ChurnRisk

BG = Params(0.243, 4.414, 0.793, 2.426)
MBG = Params(0.525, 6.183, 0.891, 1.614)
H_WEEKS = SETTINGS.churn_horizon_d / 7

# -- the signal ------------------------------------------------------------------------------------------------------


def order(day: float, revenue: Any = 100, order_id: str | None = None) -> ProfileEvent:
    """An order so many days after a site-local noon."""
    properties = {"order_id": order_id or f"o{day}", "revenue": revenue}
    return event(ORDER_COMPLETED, NOON_S + day * 86400, properties, id=f"m{day}-{order_id}")


_OFFSET_MS = 7 * 3_600_000
NOON_S = ((T0_MS + _OFFSET_MS) // DAY_MS * DAY_MS - _OFFSET_MS + DAY_MS // 2 - T0_MS) / 1000
DAY0 = (T0_MS + _OFFSET_MS) // DAY_MS
ZERO_MS = DAY0 * DAY_MS - _OFFSET_MS


def take(events: Any, ctx: Context | None = None, state: Purchases | None = None) -> tuple[Purchases, list[Result]]:
    """As the shell does: timers due <= an event's time fire before it."""
    signal, results = PurchaseSignal(), []
    ctx = ctx or context()
    for e in events:
        if state is not None and state.due_ms is not None and state.due_ms <= e.timestamp_ms:
            results.append(signal.fire(state, e.timestamp_ms, ctx))
            state = results[-1].state
        results.append(signal.fold(state, e, ctx))
        state = results[-1].state
    assert state is not None
    return state, results


def test_purchase_days_are_merged_in_the_sites_time_zone() -> None:
    late_evening, after_midnight = order(0.49), order(0.51)
    state, _ = take([order(0), late_evening, after_midnight])
    assert state.days == (DAY0, DAY0 + 1)
    assert (state.x, state.t_x_days) == (1, 1)
    assert state.zero_ms == ZERO_MS


def test_any_order_of_arrival_gives_the_same_state() -> None:
    events = [order(0, 10.1), order(0.1, 20.2), order(7, 0.3), order(30, "7.7")]
    states = set()
    for arrival in permutations(events):
        state, _ = take(arrival)
        states.add(msgspec.json.encode(msgspec.structs.replace(state, orders=())))
    assert len(states) == 1
    assert msgspec.json.decode(states.pop())["value"] == 383_000


def test_an_order_reported_twice_counts_once() -> None:
    state, _ = take([order(0, order_id="a"), order(5, order_id="b"), order(5.01, order_id="b"), order(9, order_id="a")])
    assert state.x == 1
    assert state.value == 2_000_000


def test_the_timer_stands_where_the_risk_crosses() -> None:
    state, _ = take([order(0), order(28)])
    assert state.due_ms is not None
    weeks = (state.due_ms - ZERO_MS) / DAY_MS / 7
    assert risk(COLD, 1, 4.0, weeks, H_WEEKS) == pytest.approx(0.9, abs=1e-6)


def test_a_customer_who_is_about_to_be_lost_is_told_once_with_all_numbers() -> None:
    state, _ = take([order(0, 150), order(28, 250)])
    signal, due = PurchaseSignal(), state.due_ms
    assert due is not None
    early = signal.fire(state, due - 1, context())
    assert early.triggers == ()
    result = signal.fire(state, due, context())
    (trigger,) = result.triggers
    assert trigger.suppressed is None
    assert trigger.at_ms == due
    assert result.gauges == (("churn_high", 1),)
    assert signal.due_ms(result.state) is None
    data = trigger.data
    assert isinstance(data, ChurnRisk)
    assert (data.signal, data.x, data.t_x_days, data.value_total) == ("purchase", 1, 28, 400)
    assert (data.band, data.confidence, data.model) == ("high", "cold", "mbg_nbd:prior-1")
    assert data.risk == pytest.approx(0.9, abs=1e-6)
    assert data.risk >= 0.9
    assert data.t_days == pytest.approx((due - ZERO_MS) / DAY_MS)
    assert 0 < data.p_alive < 1
    again = signal.fire(state, due + 5 * DAY_MS, context())
    assert again.triggers == result.triggers  # whenever the clock comes by


def test_a_one_time_buyer_is_counted_but_not_told() -> None:
    state, _ = take([order(0)])
    assert state.due_ms is not None
    result = PurchaseSignal().fire(state, state.due_ms, context())
    assert [t.suppressed for t in result.triggers] == ["one_time_buyer"]
    assert result.gauges == (("churn_high", 1),)


def test_the_id_does_not_change_with_a_repeat_on_the_same_day() -> None:
    ids = set()
    for events in ([order(0), order(28)], [order(0), order(28), order(28.1)], [order(28.1), order(28), order(0)]):
        state, _ = take(events)
        assert state.due_ms is not None
        ids |= {t.id for t in PurchaseSignal().fire(state, state.due_ms, context()).triggers}
    assert len(ids) == 1


def test_only_a_purchase_that_brings_the_risk_down_switches_off() -> None:
    state, _ = take([order(0), order(28)])
    assert state.due_ms is not None
    crossed_day = (state.due_ms - ZERO_MS) / DAY_MS
    state = PurchaseSignal().fire(state, state.due_ms, context()).state
    # A late purchase of long ago leaves the risk high, and the signal on.
    still, results = take([order(1)], state=state)
    assert still.on
    assert still.due_ms is None
    assert results[-1].gauges == ()
    off, results = take([order(crossed_day + 10)], state=state)
    assert not off.on
    assert results[-1].gauges == (("churn_high", -1),)
    assert off.due_ms is not None
    assert off.due_ms > state.crossed_ms
    second = PurchaseSignal().fire(off, off.due_ms, context())
    assert [t.suppressed for t in second.triggers] == [None]
    assert (
        second.triggers[0].id != PurchaseSignal().fire(take([order(0), order(28)])[0], 2**60, context()).triggers[0].id
    )


def test_between_enter_and_leave_the_signal_stays_as_it_is() -> None:
    """A purchase after which the risk is between .80 and .90: on stays on."""
    ctx = context(settings=Settings(churn_enter=0.9, churn_leave=0.05))
    state, _ = take([order(0), order(28)], ctx)
    assert state.due_ms is not None
    state = PurchaseSignal().fire(state, state.due_ms, ctx).state
    state, results = take([order(300)], ctx, state)
    assert state.on
    assert results[-1].gauges == ()


def test_a_second_crossing_within_the_gap_is_suppressed() -> None:
    ctx = context(settings=Settings(churn_gap_d=1000.0))
    state, _ = take([order(0), order(28)], ctx)
    fired = []
    for _ in range(2):
        assert state.due_ms is not None
        day = (state.due_ms - ZERO_MS) / DAY_MS
        result = PurchaseSignal().fire(state, state.due_ms, ctx)
        fired += [t.suppressed for t in result.triggers]
        state, _ = take([order(day + 1)], ctx, result.state)
    assert fired == [None, "gap"]


def test_the_days_of_a_frequent_buyer_are_bounded_and_x_is_not() -> None:
    state, _ = take([order(i) for i in range(700)])
    assert len(state.days) == MAX_DAYS
    assert (state.x, state.t_x_days) == (699, 699)
    assert state.days[0] == DAY0
    earlier, _ = take([order(-5)], state=state)
    assert (earlier.x, earlier.days[0]) == (700, DAY0 - 5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_signal_is_on_exactly_while_the_risk_is_high(purchases: list[tuple[int, int]]) -> None:
    """In order, hysteresis by definition: on from the first moment the risk is >= enter, off at a purchase <= leave."""
    events = [order(day + n / 10) for day, n in sorted(set(purchases))]
    state, results = take(events)
    gauge = 0
    for r in results:
        gauge += sum(n for _, n in r.gauges)
        assert gauge == r.state.on
    assert (state.due_ms is None) == state.on
    if not state.on:
        assert state.due_ms is not None
        now = state.age_weeks(events[-1].timestamp_ms)
        assert risk(COLD, state.x, state.t_x_days / 7, now, H_WEEKS) < 0.9 or state.due_ms <= events[-1].timestamp_ms
