"""The churn signals: days, timers, hysteresis, new parameters; what orders were worth."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.churn import COLD, p_at_least_one, risk
from stream.core.churn_watch import MAX_DAYS
from stream.core.value import ValueParams, factors, lifetime_value
from stream.signals.base import Context, Result
from stream.signals.message_engage import MessageEngageSignal
from stream.signals.purchase import Purchases, PurchaseSignal
from stream.signals.visit import VisitSignal
from tests.unit import shop_events
from tests.unit.shop_events import T0_MS, event
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ORDER_CANCELLED, ORDER_COMPLETED, ORDER_REFUNDED, ProfileEvent
from tracker.contract.models import Model, Value
from tracker.contract.settings import Settings
from tracker.contract.triggers import ChurnRisk

EXACT = Settings(churn_recheck_d=0)
"""Timers stand at the crossing, not at a check before it."""
H_WEEKS = EXACT.churn_horizon_d / 7


def context(**fields: Any) -> Context:
    return shop_events.context(**{"settings": EXACT, **fields})


def order(day: float, revenue: Any = 100, order_id: str | None = None, cur: str | None = None) -> ProfileEvent:
    """An order so many days after a site-local noon."""
    properties = {"order_id": order_id or f"o{day}", "revenue": revenue, "currency": cur}
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


def worth(state: Purchases) -> dict[str, float]:
    """Currency -> net value, as it is told."""
    signal, ctx = PurchaseSignal(), context()
    return signal.told(state, T0_MS + 10**10, signal.rule(ctx), ctx).values


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
        states.add(msgspec.json.encode(state, order="deterministic"))
    assert len(states) == 1
    assert worth(state) == {"": pytest.approx(38.3)}


def test_an_order_reported_twice_counts_once() -> None:
    state, _ = take([order(0, order_id="a"), order(5, order_id="b"), order(5.01, order_id="b"), order(9, order_id="a")])
    assert state.x == 1
    assert worth(state) == {"": 200}


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
    ctx = context(settings=Settings(churn_recheck_d=0, churn_enter=0.9, churn_leave=0.05))
    state, _ = take([order(0), order(28)], ctx)
    assert state.due_ms is not None
    state = PurchaseSignal().fire(state, state.due_ms, ctx).state
    state, results = take([order(300)], ctx, state)
    assert state.on
    assert results[-1].gauges == ()


def test_a_second_crossing_within_the_gap_is_suppressed() -> None:
    ctx = context(settings=Settings(churn_recheck_d=0, churn_gap_d=1000.0))
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


@settings(max_examples=200)
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


def test_another_report_of_an_order_counts_once_whichever_comes_first() -> None:
    events = [order(0, order_id="a"), order(5, 100, order_id="b"), order(5.8, 90, order_id="b"), order(9, 70, "a")]
    states = {msgspec.json.encode(take(arrival)[0], order="deterministic") for arrival in permutations(events)}
    assert len(states) == 1
    state = msgspec.json.decode(states.pop(), type=Purchases)
    assert state.x == 1
    assert worth(state) == {"": 200}


def back(day: float, order_id: str, total: Any = None, name: str = ORDER_REFUNDED) -> ProfileEvent:
    properties = {"order_id": order_id} | ({} if total is None else {"total": total})
    return event(name, NOON_S + day * 86400, properties, id=f"{name}{day}")


def test_what_was_given_back_is_subtracted_in_any_order_and_currencies_are_not_mixed() -> None:
    events = [
        order(0, 100, "a", "VND"), order(5, 80, "b", "VND"), order(6, 9, "c", "USD"), back(7, "b", 30),
        back(8, "b", 20), back(9, "c", name=ORDER_CANCELLED),
    ]  # fmt: skip
    states = {msgspec.json.encode(take(arrival)[0], order="deterministic") for arrival in permutations(events)}
    assert len(states) == 1
    state = msgspec.json.decode(states.pop(), type=Purchases)
    assert worth(state) == {"USD": 0, "VND": 130}
    more, _ = take([back(10, "b", 500), back(11, "unknown", 5)], state=state)
    assert worth(more) == {"USD": 0, "VND": 100}
    nothing = PurchaseSignal().fold(None, event(ORDER_REFUNDED, 0, {"total": 5}), context())
    assert nothing.state is None


def test_two_profiles_with_one_order_have_its_value_once() -> None:
    signal, ctx = PurchaseSignal(), context()
    (one, _), (two, _) = (
        take([order(0, 100, "a"), order(3, 50, "b"), back(4, "b", 20)]),
        take([order(3.6, 50, "b"), order(9, 10, "c")]),
    )
    merged = signal.merge(one, two, T0_MS, ctx).state
    assert merged == signal.merge(two, one, T0_MS, ctx).state
    assert worth(merged) == {"": 140}
    assert [day - DAY0 for day in merged.days] == [0, 3, 9]


def test_of_very_many_orders_the_sum_stays_and_the_state_is_bounded() -> None:
    state, _ = take([order(i, 10, cur="VND") for i in range(300)])
    assert len(state.orders) == 64
    assert worth(state) == {"VND": 3000}
    assert len(msgspec.json.encode(state)) < 8000


# -- new parameters

MODEL = Model(
    model_id="demo/purchase/7", site="demo", signal="purchase", version=7, fitted_at_ms=T0_MS, r=0.5, alpha=6.0, a=0.9,
    b=1.6, customers=900, confidence="ok", value=Value(p=6.25, q=3.74, v=15.44, currency="VND", high=20.0),
)  # fmt: skip
MODELS = {("demo", "purchase"): MODEL}


def test_a_trigger_has_the_version_and_the_value_of_the_sites_parameters() -> None:
    ctx = context(models=MODELS)
    state, _ = take([order(0, 150, cur="VND"), order(28, 20, cur="VND"), order(56, 30, cur="VND")], ctx)
    assert state.due_ms is not None
    (trigger,) = PurchaseSignal().fire(state, state.due_ms, ctx).triggers
    data = trigger.data
    assert isinstance(data, ChurnRisk)
    assert (data.model, data.version, data.confidence) == ("mbg_nbd:7", 7, "ok")
    params = PurchaseSignal().rule(ctx).params
    age = state.age_weeks(state.due_ms)
    clv = lifetime_value("mbgnbd", params, ValueParams(6.25, 3.74, 15.44), 2, 8, age, 25.0, factors(52, 0.15))
    assert data.clv == clv
    assert data.high_value is (clv is not None and clv >= 20)
    assert data.likelihood == p_at_least_one(params, 2, 8, age, 90 / 7)
    assert (data.value_total, data.currency) == (200, "VND")
    explained = PurchaseSignal().explain(state, trigger.at_ms, ctx)
    assert (explained["clv"], explained["risk"], explained["crosses"]) == (clv, data.risk, rfc(trigger.at_ms))
    msgspec.json.encode(explained)


def rfc(ms: int) -> str:
    from tracker.contract.triggers import rfc3339

    return rfc3339(ms)


def test_a_timer_of_older_parameters_is_solved_again_when_it_is_due() -> None:
    """The new ones say later: nothing is told, and the timer moves on. They say earlier: told at the next check."""
    signal, older, newer = PurchaseSignal(), context(), context(models=MODELS)
    events = [order(0), order(7), order(14)]
    by_old, by_new = take(events, older)[0].due_ms, take(events, newer)[0].due_ms
    assert by_old is not None
    assert by_new is not None
    first, then = (older, newer) if by_old < by_new else (newer, older)
    state, _ = take(events, first)
    assert state.due_ms is not None
    result = signal.fire(state, state.due_ms, then)
    assert result.triggers == ()
    assert result.state.due_ms == max(by_old, by_new)
    checking = Settings(churn_recheck_d=14)
    state, _ = take(events, msgspec.structs.replace(then, settings=checking))
    for _ in range(100):
        assert state.due_ms is not None
        at_ms = state.due_ms
        result = signal.fire(state, at_ms, msgspec.structs.replace(first, settings=checking))
        state = result.state
        if result.triggers:
            break
    assert [t.suppressed for t in result.triggers] == [None]
    assert result.triggers[0].at_ms == at_ms == min(by_old, by_new)


def test_checks_do_not_depend_on_the_order_of_arrival_and_catch_up_at_once() -> None:
    ctx, signal = context(settings=Settings()), PurchaseSignal()
    dues = {take(arrival, ctx)[0].due_ms for arrival in permutations([order(0), order(7), order(3)])}
    assert dues == {ZERO_MS + 21 * DAY_MS}
    state, _ = take([order(0), order(7)], ctx)
    exact, _ = take([order(0), order(7)])
    assert exact.due_ms is not None
    before = signal.fire(state, exact.due_ms - 1, ctx)
    assert before.triggers == ()
    assert before.state.due_ms == exact.due_ms
    late = signal.fire(state, exact.due_ms + 40 * DAY_MS, ctx)
    assert [t.at_ms for t in late.triggers] == [exact.due_ms]


# -- visits and messages


def look(day: float, kind: str = "page", bot: str | None = None) -> ProfileEvent:
    e = event("", NOON_S + day * 86400, id=f"look{day}")
    return msgspec.structs.replace(e, type=kind, event=None, bot=bot)


def test_visits_of_a_day_are_one_and_change_nothing() -> None:
    signal, ctx = VisitSignal(), context()
    state = None
    for day in (0, 3):
        state = signal.fold(state, look(day), ctx).state
    again = signal.fold(state, look(3.2, "screen"), ctx)
    assert again.state is state
    assert signal.fold(state, look(0.1), ctx).state is state
    assert signal.fold(state, look(9, bot="spider"), ctx).state is state
    assert not signal.events
    assert signal.types == {"page", "screen"}, "it is given nothing else"
    assert state is not None
    assert (state.x, state.t_x_days) == (1, 3)
    (trigger,) = signal.fire(state, state.due_ms or 0, ctx).triggers
    assert isinstance(trigger.data, ChurnRisk)
    assert (trigger.data.signal, trigger.data.horizon_days, trigger.data.clv) == ("visit", 28, None)


def test_who_came_once_has_no_timer() -> None:
    state = VisitSignal().fold(None, look(0), context()).state
    assert state.due_ms is None
    assert msgspec.json.encode(state) == b'{"days":[%d],"zero_ms":%d}' % (DAY0, ZERO_MS)


def test_answers_to_messages_are_their_own_signal() -> None:
    signal, ctx = MessageEngageSignal(), context()
    state = None
    for day, name in ((0, "Email Opened"), (2, "Message Link Clicked"), (2.1, "Message Replied")):
        state = signal.fold(state, event(name, NOON_S + day * 86400), ctx).state
    assert state is not None
    assert state.x == 1
    assert signal.events is not None
    assert not signal.events & {"Email Sent", "Email Delivered", "Unsubscribed"}


def test_a_state_of_version_1_is_read_on() -> None:
    old = {"days": [DAY0, DAY0 + 5], "zero_ms": ZERO_MS, "value": 2_000_000, "orders": ["a", "b"]}
    state = msgspec.convert(PurchaseSignal().migrate(1, dict(old)), Purchases)
    assert worth(state) == {"": 200}
    again, _ = take([order(5, 100, "b")], state=state)
    assert again.x == 1


def test_nobody_who_has_not_ordered_has_a_risk() -> None:
    """A refund of an order that is not known yet."""
    refund = event(ORDER_REFUNDED, NOON_S, {"order_id": "o1", "total": 5}, id="r")
    state, _ = take([refund])
    said = PurchaseSignal().explain(state, T0_MS + 9 * DAY_MS, context())
    assert [said[name] for name in ("risk", "band", "p_alive", "likelihood", "t_days", "clv")] == [None] * 6
    assert (said["x"], said["days"], said["on"]) == (0, 0, False)
