"""The cart by its vectors: in order, in every order of arrival, in random orders."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Final, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.core import cart, cart_log
from stream.core.cart import TABLE, Input
from stream.core.cart_state import WAITING, Emission, Rules, State, What
from stream.signals.cart_counts import counted
from stream.signals.cart_triggers import trigger_id
from tests.unit.cart_rig import RULES, Rig, folded, said
from tests.unit.cart_vectors import KEYS, MORE, VECTORS, Vector
from tests.unit.shop_events import (
    T0_MS,
    H,
    add,
    answer,
    cancel,
    checkout,
    click,
    denied,
    event,
    failed,
    named,
    order,
    payment,
    refund,
    remove,
    shipping,
    view,
)
from tracker.contract import events as ev
from tracker.contract.events import ProfileEvent
from tracker.contract.triggers import CART_ABANDONED, CartAbandoned, CartAbandonmentRetracted

ALL: Final = (*VECTORS, *MORE, *KEYS)
IN_LOG: Final = tuple(v for v in ALL if v.events[-1].timestamp_ms - v.events[0].timestamp_ms <= cart_log.MAX_LOG_MS)
"""Those within the 48 h in which late events are sorted in."""
COUNTED: Final = {
    "carts_converted_total": "cart.converted",
    "carts_recovered_total": "cart.recovered",
    "carts_lost_total": "cart.lost",
    "carts_emptied_total": "cart.emptied",
    "orders_total": "order.completed",
}


def by_name(vector: Vector) -> str:
    return vector.name


@pytest.mark.parametrize("vector", ALL, ids=by_name)
def test_the_fold_of_a_vector_says_what_the_spec_says(vector: Vector) -> None:
    state, emitted = folded(vector.events, vector.now_s)
    assert state.latest.state == vector.state
    assert said(emitted) == list(vector.emitted)


@pytest.mark.parametrize("vector", IN_LOG, ids=by_name)
def test_every_order_of_arrival_ends_in_the_same_state_and_the_same_triggers(vector: Vector) -> None:
    for arrival in permutations(vector.events):
        run(arrival, vector.now_s)


@pytest.mark.parametrize("vector", IN_LOG, ids=by_name)
def test_a_vector_that_is_a_backlog_fires_nothing_before_its_events_are_read(vector: Vector) -> None:
    """No clock between the events: all were received while the worker was away."""
    for arrival in permutations(vector.events):
        rig = Rig()
        for e in arrival:
            rig.take(e)
        finish(rig, arrival, vector.now_s)


def test_every_row_of_the_table_is_walked_by_a_vector() -> None:
    walked: set[tuple[str, str]] = set()

    class Table(dict[tuple[State, Input], tuple[State, What | None]]):
        def __getitem__(self, key: tuple[State, Input]) -> tuple[State, What | None]:
            walked.add(key)
            return super().__getitem__(key)

        def get(self, key, default=None):  # type: ignore[no-untyped-def]
            walked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            walked.add(key)  # type: ignore[arg-type]
            return super().__contains__(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cart, "TABLE", Table(TABLE))
        for vector in ALL:
            folded(vector.events, vector.now_s)
    assert set(TABLE) <= walked


def test_the_table_names_only_known_states_inputs_and_emissions() -> None:
    for (state, given_), (to, what) in TABLE.items():
        assert {state, to} <= set(get_args(State))
        assert given_ in get_args(Input)
        assert what is None or what in get_args(What)


# -- random logs -----------------------------------------------------------------------------------------------------

_KINDS = (add, remove, view, checkout, payment, order, cancel, refund, click, denied, failed, answer, shipping)
_NAMED: Final[tuple[dict[str, str], ...]] = (
    {}, {}, {"cart_id": "c1"}, {"cart_id": "c2"}, {"checkout_id": "k1"}, {"checkout_id": "k2"},
    {"cart_id": "c1", "checkout_id": "k1"}, {"cart_id": "c2", "checkout_id": "k2"},
)  # fmt: skip
_STEPS_S = (0, 1, 300, 900, 1800, 3600, 10_800, 90_000)


@st.composite
def logs(draw: st.DrawFn, steps_s: tuple[int, ...] = _STEPS_S, most_s: int = 48 * H) -> list[ProfileEvent]:
    """Events of one visitor, minutes to days apart, on a grid that makes ties of timers and events likely."""
    out: list[ProfileEvent] = []
    at = 0
    for i in range(draw(st.integers(1, 10))):
        step = draw(st.sampled_from(steps_s))
        at += step if at + step <= most_s else 0
        kind = draw(st.sampled_from(_KINDS))
        id = f"m{draw(st.integers(0, 99)):02d}-{i}"
        if kind in (add, remove):
            out.append(kind(at, draw(st.sampled_from("AB")), id=id))
        elif kind is view:
            out.append(view(at, *draw(st.sampled_from([(), ("A",), ("A", "C")])), id=id))
        elif kind in (order, cancel, refund):
            out.append(kind(at, order_id=draw(st.sampled_from(["o1", "o2", "o3"])), id=id))
        else:
            out.append(kind(at, id=id))
        if kind not in (cancel, refund, click):
            names = draw(st.sampled_from(_NAMED))
            out[-1] = named(out[-1], **names)
    return out


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[ProfileEvent], list[float]]:
    """A log in some order of arrival, repeats among it, and how long after the one before each arrives."""
    log = draw(logs())
    log += draw(st.lists(st.sampled_from(log), max_size=3))
    arrival = draw(st.permutations(log))
    waits = draw(st.lists(st.sampled_from([0.0, 1.0, 60.0, 4000.0]), min_size=len(arrival), max_size=len(arrival)))
    return arrival, waits


def run(arrival: list[ProfileEvent] | tuple[ProfileEvent, ...], now_s: float, waits: list[float] | None = None) -> Rig:
    """Let the events arrive one after another, each after its own time, the clock ticking in between."""
    rig = Rig()
    clock_s = 0.0
    for e, wait in zip(arrival, waits or [1.0] * len(arrival), strict=True):
        clock_s = max(clock_s, (e.timestamp_ms - T0_MS) / 1000) + wait
        rig.clock(clock_s - wait)
        received_ms = T0_MS + round(1000 * clock_s)
        rig.take(msgspec.structs.replace(e, received_at_ms=received_ms))
    finish(rig, arrival, max(now_s, clock_s))
    return rig


def finish(rig: Rig, arrival: list[ProfileEvent] | tuple[ProfileEvent, ...], now_s: float) -> None:
    """Bring the clock to the end; then state, triggers and counts are those of the fold of all events in order."""
    rig.clock(now_s)
    assert rig.state is not None
    state, emitted = folded(arrival, now_s)
    assert rig.state.carts == state

    base_ms = rig.state.base.at_ms
    abandoned = [e for e in emitted if e.what == "cart.abandoned" and e.at_ms > base_ms]
    told = [t for t in rig.state.told if t.order is None]
    assert sorted((t.opened_ms, t.at_ms) for t in told) == sorted((e.cart.opened_ms, e.at_ms) for e in abandoned)
    given_back = {e.order.id for e in emitted if e.what == "cart.recovery_reversed" and e.order}
    recovered = [e for e in emitted if e.what == "cart.recovered" and e.order and e.order.id not in given_back]
    recoveries = [t for t in rig.state.told if t.order is not None]
    assert sorted((t.key, t.order or "", t.at_ms) for t in recoveries if t.at_ms > base_ms) == sorted(
        (e.cart.key, e.order.id, e.at_ms) for e in recovered if e.order and e.at_ms > base_ms
    )
    assert {(t.key, t.order) for t in recoveries} <= {(e.cart.key, e.order.id) for e in recovered if e.order}
    assert not any(t.unsure for t in rig.state.told)
    published = set(rig.published())
    known = {trigger_id("demo", t) for t in rig.state.told if not t.quiet}
    assert known <= published if base_ms else known == published
    loud = {(t.opened_ms, t.at_ms) for t in told if not t.quiet}
    assert loud >= {(e.cart.opened_ms, e.at_ms) for e in abandoned if not e.quiet}
    assert rig.counts() == counts_of(emitted)

    for metric, what in COUNTED.items():
        true = sum(e.what == what for e in emitted)
        assert rig.total(metric) - rig.state.counted.get(what, 0) == true, metric
    first = sum(e.what == "cart.abandoned" and e.cart.seq == 1 for e in emitted)
    assert rig.total("carts_abandoned_total") - rig.state.counted.get("cart.abandoned", 0) == first
    assert rig.gauge() == sum(c.state in WAITING for c in state.carts)


def counts_of(emitted: list[Emission]) -> dict[tuple[str, int], int]:
    """(field, minute the cart was opened) -> what the counters must say: of all that happened, added up."""
    sums: Counter[tuple[str, int]] = Counter()
    for x in emitted:
        for field, n, ms in counted(x):
            sums[field, ms // 60_000 * 60_000] += n
    return {key: n for key, n in sums.items() if n}


@settings(max_examples=300)
@given(arrivals(), st.sampled_from([0.0, 3600.0, 90_000.0, 2_000_000.0]))
@example(([add(0), add(3000, id="late")], [3700.0, 0.0]), 6599.0)
def test_any_order_of_arrival_is_the_fold_in_order(
    case: tuple[list[ProfileEvent], list[float]], after_s: float
) -> None:
    arrival, waits = case
    last_s = max(e.timestamp_ms - T0_MS for e in arrival) / 1000
    run(arrival, last_s + after_s, waits)


@settings(max_examples=150)
@given(logs((*_STEPS_S, 600_000), 10_000_000), st.sampled_from([0.0, 3600.0, 2_000_000.0]))
def test_in_order_the_log_is_never_folded_again(log: list[ProfileEvent], after_s: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cart_log, "_fold", lambda *_: pytest.fail("folded again"))
        ordered = sorted(log, key=lambda e: (e.timestamp_ms, e.message_id))
        rig = run(ordered, ordered[-1].timestamp_ms / 1000 - T0_MS / 1000 + after_s, [0.0] * len(ordered))
    assert not any(isinstance(t.data, CartAbandonmentRetracted) for t in rig.triggers)
    _, emitted = folded(ordered, rig.clock_ms / 1000 - T0_MS / 1000)
    told = [(t.at_ms, t.suppressed == "repeat") for t in rig.triggers if t.kind is CART_ABANDONED]
    assert told == [(e.at_ms, e.quiet) for e in emitted if e.what == "cart.abandoned"]


@settings(max_examples=150)
@given(logs())
def test_a_cart_with_an_order_in_time_is_never_abandoned(log: list[ProfileEvent]) -> None:
    _, emitted = folded(log, 3_000_000)
    orders = {e.order.ms for e in emitted if e.what == "order.completed" and e.order}
    for e in emitted:
        if e.what == "cart.abandoned":
            assert not any(e.cart.last_ms < at < e.at_ms for at in orders)


@pytest.mark.parametrize(
    "step",
    [
        event(ev.CHECKOUT_STEP_COMPLETED, 100, {"checkout_id": "k"}, id="before-m"),
        event(ev.CHECKOUT_STEP_COMPLETED, 100, {"checkout_id": "k"}, id="z"),
        event(ev.PAYMENT_INFO_ENTERED, 105, {"checkout_id": "k", "order_id": "o1"}, id="z"),
    ],
    ids=["of the same time, id before", "of the same time, id behind", "behind it"],
)
def test_a_step_that_is_reported_with_its_order_or_behind_it_opens_no_cart(step: ProfileEvent) -> None:
    started = event(ev.CHECKOUT_STARTED, 50, {"checkout_id": "k", "order_id": "o1"})
    bought = event(ev.ORDER_COMPLETED, 100, {"checkout_id": "k", "order_id": "o1"}, id="m")
    for arrival in permutations([add(0), started, bought, step]):
        rig = Rig()
        for e in arrival:
            rig.take(e)
        rig.clock(9 * H)
        assert rig.state is not None
        assert [c.state for c in rig.state.carts.carts] == ["converted"]
        assert rig.published() == []


# -- what late events do ---------------------------------------------------------------------------------------------


def test_a_late_order_takes_the_abandonment_back_by_its_id() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(3601)
    rig.take(order(60, received_s=3700))
    told, taken = rig.triggers
    assert isinstance(told.data, CartAbandoned)
    assert isinstance(taken.data, CartAbandonmentRetracted)
    assert taken.data.retracts == told.id
    assert taken.id != told.id
    assert taken.at_ms == T0_MS + 3_700_000
    assert rig.published() == []
    assert rig.state is not None
    assert rig.state.carts.latest.state == "converted"
    # What was counted as abandoned can't be uncounted: the next abandonment is not counted.
    rig.take(add(5000, received_s=5000))
    rig.clock(5000 + H)
    assert rig.total("carts_abandoned_total") == 1
    assert len(rig.published()) == 1


def test_a_late_event_that_moves_an_abandonment_a_little_keeps_its_id_and_tells_nothing() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(3600)
    rig.take(add(10, "B", received_s=3700))  # abandoned @3610 instead: true when it is received
    rig.clock(3701)
    assert len(rig.triggers) == 1
    assert rig.total("carts_abandoned_total") == 1
    assert rig.state is not None
    assert [t.at_ms for t in rig.state.told] == [T0_MS + 3_610_000]


def test_an_abandonment_moved_by_a_late_event_and_then_bought_in_time_is_taken_back() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(3600)
    rig.take(add(10, "B", received_s=3700))  # @3610 instead, not yet fired
    assert len(rig.published()) == 1
    rig.take(order(3605, received_s=3700))
    assert rig.published() == []


def test_a_timer_that_is_past_already_fires_with_the_event_that_sets_it() -> None:
    """Events that arrive in order, but behind the clock; were it not so, the next late one would count it twice."""
    rig = Rig()
    rig.take(add(0))
    rig.clock(9000)
    rig.take(remove(4000, received_s=9000))
    rig.take(add(4001, "B", received_s=9000))
    assert [t.at_ms for t in rig.triggers] == [T0_MS + 3_600_000, T0_MS + 7_601_000]
    rig.take(click(3, received_s=9000))
    rig.clock(9001)
    assert rig.total("carts_abandoned_total") == len(rig.published()) == 2


def test_a_late_event_that_shows_the_cart_alive_retracts_and_the_next_abandonment_has_a_new_id() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(3600)
    rig.take(add(3000, "B", received_s=3700))  # to be abandoned @6600
    assert rig.published() == []
    rig.clock(6600)
    first, retraction, second = rig.triggers
    assert first.id != second.id
    assert isinstance(retraction.data, CartAbandonmentRetracted)
    assert rig.published() == [second.id]
    assert isinstance(second.data, CartAbandoned)
    assert (second.data.seq, second.data.value) == (1, 15)


def test_a_late_earlier_opening_keeps_the_id() -> None:
    rig = Rig()
    rig.take(add(100))
    rig.clock(3700)
    rig.take(add(0, "B", received_s=3800))
    rig.clock(3900)
    assert len(rig.triggers) == 1
    assert rig.state is not None
    assert rig.state.carts.latest.opened_ms == T0_MS


def test_a_quiet_abandonment_that_turns_out_to_be_the_first_is_told() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(H)
    rig.take(add(2 * H, "B", received_s=2 * H))
    rig.clock(3 * H)
    assert [t.suppressed for t in rig.triggers] == [None, "repeat"]
    rig.take(order(60, received_s=3 * H + 1))  # so the first was none, and the second is a cart of its own
    assert len(rig.published()) == 1
    assert isinstance(rig.triggers[-1].data, CartAbandoned)
    assert rig.triggers[-1].suppressed is None
    assert rig.triggers[-1].data.episode == 2


def test_a_late_event_that_makes_a_quiet_abandonment_between_two_that_were_told_tells_nobody_again() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(2 * H)
    rig.take(payment(26 * H))
    rig.clock(27 * H)
    told = rig.published()
    assert len(told) == 2
    rig.take(view(4 * H, "A", received_s=28 * H))  # abandoned @5 h, too, within a day of the first
    rig.clock(29 * H)
    assert rig.published() == told
    assert [t.suppressed for t in rig.triggers] == [None, None, "repeat"]
    assert rig.state is not None
    assert [(t.at_ms - T0_MS) / 1000 for t in rig.state.told if not t.quiet] == [H, 26 * H + 900]


def test_a_late_event_that_shows_an_earlier_abandonment_of_the_cart_tells_nobody_again() -> None:
    rig = Rig()
    rig.take(payment(2 * H))
    rig.clock(3 * H)
    told = rig.published()
    rig.take(add(0, received_s=3 * H))  # abandoned @1 h, so that the one that was told would have been a repeat
    rig.clock(4 * H)
    assert rig.published() == told
    assert [t.suppressed for t in rig.triggers] == [None, "repeat"]


def test_of_two_abandonments_that_were_told_the_one_that_was_none_is_taken_back() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.clock(2 * H)
    rig.take(payment(25 * H))
    rig.clock(26 * H)
    _, second = rig.published()
    for i in range(1, 50):  # all the time somebody was there
        rig.take(add(i * H / 2, "B", id=f"late-{i:02}", received_s=26 * H))
    rig.clock(27 * H)
    assert rig.published() == [second]


def test_a_trigger_carries_what_a_reminder_needs() -> None:
    rig = Rig()
    rig.take(add(0))
    rig.take(add(60, "B", 2))
    rig.clock(2 * H)
    (trigger,) = rig.triggers
    data = trigger.data
    assert isinstance(data, CartAbandoned)
    assert (data.stage, data.value, data.episode, data.seq) == ("cart", 20, 1, 1)
    assert [(i.product_id, i.quantity, i.price) for i in data.items] == [("A", 1, 10), ("B", 2, 5)]
    assert (data.opened_at_ms, data.last_activity_ms) == (T0_MS, T0_MS + 60_000)
    assert data.abandoned_at_ms == trigger.at_ms == T0_MS + 3_660_000
    assert data.profile_id == "p1"


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_the_log_stays_within_its_bounds_and_the_state_is_still_the_fold() -> None:
    rig = Rig()
    log = [add(30 * i, "AB"[i % 2], id=f"m{i:04d}") for i in range(450)]
    for e in log:
        rig.take(e)
    assert rig.state is not None
    assert len(rig.state.log) == cart_log.MAX_ENTRIES
    assert rig.state.lines == cart_log.MAX_ENTRIES
    finish(rig, log, 30 * 450 + H)


def test_a_log_of_long_lists_is_bounded_by_its_lines() -> None:
    rig = Rig()
    log = [view(i, *["A", "B", "C"] * 33, *[str(n) for n in range(90)], id=f"m{i:04d}") for i in range(12)]
    for e in log:
        rig.take(e)
    assert rig.state is not None
    assert rig.state.lines == sum(len(e.lines or ()) for e in rig.state.log) <= cart_log.MAX_LOG_LINES
    assert len(rig.state.carts.latest.items) == 93
    finish(rig, log, 2 * H)


def test_two_days_are_kept_for_late_events() -> None:
    rig = Rig()
    log = [add(i * 6 * H, id=f"m{i:04d}") for i in range(20)]
    for e in log:
        rig.clock((e.timestamp_ms - T0_MS) / 1000)
        rig.take(e)
    assert rig.state is not None
    assert rig.state.log[0].ms == log[-1].timestamp_ms - cart_log.MAX_LOG_MS
    assert len(rig.state.told) <= len(rig.state.log)
    state, _ = folded(log, 19 * 6 * H)
    assert rig.state.carts == state
    late = order(19 * 6 * H - 47 * H, received_s=20 * 6 * H)
    rig.take(late)
    assert rig.state.carts == folded([*log, late], 19 * 6 * H)[0]


def _beyond() -> Rig:
    """Opened @0; the log begins after @50 h."""
    rig = Rig()
    for at in (0, 50 * H, 99 * H):
        rig.clock(at)
        rig.take(add(at))
    assert rig.state is not None
    assert rig.state.base.at_ms == T0_MS + 50 * H * 1000
    return rig


def test_a_cart_event_from_before_the_log_is_ignored() -> None:
    rig = _beyond()
    before = rig.state
    rig.take(add(40 * H, "B", received_s=99 * H))
    rig.take(click(40 * H, received_s=99 * H))
    assert rig.state == before


def test_an_order_from_before_the_log_closes_the_cart_of_its_time() -> None:
    rig = _beyond()
    rig.take(order(40 * H, received_s=99 * H))
    assert rig.state is not None
    assert rig.state.carts.orders[0].by == "organic"
    assert (rig.state.carts.latest.state, rig.state.carts.latest.episode) == ("open", 2)
    assert rig.total("orders_total") == 1
    rig.take(order(40 * H, id="again", received_s=99 * H))
    assert rig.total("orders_total") == 1


def test_an_order_from_before_the_cart_only_counts() -> None:
    rig = _beyond()
    rig.take(order(-10, received_s=99 * H))
    assert rig.state is not None
    assert (rig.state.carts.latest.state, rig.state.carts.latest.episode) == ("reopened", 1)
    assert rig.total("orders_total") == 1
    assert rig.total("revenue_minor_total") == 20


def test_a_cancellation_from_before_the_log_is_applied() -> None:
    rig = Rig()
    for e in (add(0), order(2 * H), add(60 * H), add(110 * H)):
        rig.clock((e.timestamp_ms - T0_MS) / 1000)
        rig.take(e)
    rig.take(cancel(3 * H, received_s=110 * H))
    assert rig.state is not None
    assert rig.state.carts.orders[0].reversed


def test_the_definition_ignores_repeats_and_order() -> None:
    events = [add(0), checkout(10), order(20), add(30, "B")]
    assert folded([*events[::-1], *events], 99_999) == folded(events, 99_999)


def test_a_changed_idle_time_moves_a_timer_without_firing_early() -> None:
    rig = Rig()
    rig.take(add(0))
    assert rig.state is not None
    slower = Rules((7_200_000, 1, 1), RULES.lost_ms, RULES.repeat_ms, RULES.click_ms)
    change = cart_log.fire(rig.state, T0_MS + 3_600_000, slower)
    assert change.abandoned == ()
    assert change.state.due_ms == T0_MS + 7_200_000
