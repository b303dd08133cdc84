"""Orders in a score: each counts once, whoever reports it, in whatever order, and over merges."""

from __future__ import annotations

import json
import random
from itertools import permutations
from math import exp2, fsum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.core import score as core
from stream.signals.base import Result
from stream.signals.score import Score
from stream.stored import Stored
from tests.unit.score_play import SIGNAL, D, at, e_of, order, page, play, settings, site_total
from tests.unit.shop_events import context
from tracker.contract.events import ProfileEvent
from tracker.contract.scoring import WEIGHTS, ScoreRules


def test_the_earliest_order_is_the_first_in_whatever_order_they_come() -> None:
    orders = [order(0, "o1"), order(3 * D, "o2"), order(9 * D, "o3"), order(9.5 * D, None)]
    direct = 20 / 2 ** (10 / 7) + 30 / 2 ** (7 / 7) + 30 / 2 ** (1 / 7) + 30 / 2 ** (0.5 / 7)
    for some in permutations(orders):
        state = play(list(some))
        assert e_of(state, 10 * D) == pytest.approx(direct, rel=1e-9)
        assert state.indicators["repeat_order"].n == 3


def test_an_order_that_is_reported_twice_counts_once() -> None:
    assert play([order(0, "o1"), order(1, "o1"), order(2, "o1")]) == play([order(0, "o1")])
    assert play([order(0, None), order(1, None)]).indicators["repeat_order"].n == 1


def test_of_two_first_orders_the_later_becomes_a_repeat() -> None:
    a, b = play([order(0, "o1"), order(5 * D, "o2")]), play([order(1 * D, "o3")])
    both = SIGNAL.merge(a, b, at(6 * D), context()).state
    together = play([order(0, "o1"), order(5 * D, "o2"), order(1 * D, "o3")])
    assert e_of(both, 6 * D) == pytest.approx(e_of(together, 6 * D), rel=1e-9)
    assert set(both.orders.latest) == {"o1", "o2", "o3"}


def test_an_order_that_two_profiles_reported_is_one_when_they_are_one_person() -> None:
    """The guest's browser and the shop's server, each of its own profile: everything is as if one had had both."""
    browser = [page(0), order(10, "o1"), order(3 * D, "o2"), order(3 * D + 60, "o3")]
    server = [order(12, "o1"), order(2 * D, "o9"), order(3 * D + 2, "o2"), order(4 * D, None)]
    one, other = play(browser), play(server)
    result = SIGNAL.merge(one, other, at(5 * D), context())
    both, together = result.state, play(sorted([*browser, *server], key=lambda e: e.timestamp_ms))
    assert {name: (t.n, t.day, t.today) for name, t in both.indicators.items()} == {
        name: (t.n, t.day, t.today) for name, t in together.indicators.items()
    }
    assert both.indicators["repeat_order"].n == 4
    assert both.orders == together.orders
    for weeks in (0, 1, 30):
        assert e_of(both, (5 + 7 * weeks) * D) == pytest.approx(e_of(together, (5 + 7 * weeks) * D), rel=1e-9)
    parts = [core.contributions(state.indicators, WEIGHTS, at(5 * D)) for state in (both, together)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-9)
    changes = [SIGNAL.explain(state, at(9 * D), context())["change_7d"] for state in (both, together)]
    assert changes[0] == pytest.approx(changes[1], rel=1e-4)
    counted: list[Result] = []
    for events in (browser, server):
        state = None
        for e in events:
            counted.append(SIGNAL.fold(state, e, context()))
            state = counted[-1].state
    for name in ("first_order", "repeat_order"):
        wanted = core.value(together.indicators[name], at(5 * D))
        assert site_total([*counted, result], name, 5 * D) == pytest.approx(wanted, rel=1e-9)
    assert both == SIGNAL.merge(other, one, at(5 * D), context()).state


def test_the_cap_of_a_day_counts_an_order_of_two_profiles_once() -> None:
    ctx = context(settings=settings(ScoreRules(daily_cap=3)))
    one, other = play([order(0, "a"), order(1, "b"), order(2, "c")], ctx), play([order(3, "c"), order(4, "b")], ctx)
    both = SIGNAL.merge(one, other, at(10), ctx).state
    assert (both.indicators["repeat_order"].n, both.indicators["repeat_order"].today) == (2, 2)
    assert play([order(20, "d")], ctx, both).indicators["repeat_order"].n == 3
    over = play([order(20, "d"), order(21, "e")], ctx, both).indicators["repeat_order"]
    assert (over.n, over.today) == (4, 3)


_shared = st.lists(
    st.builds(order, st.integers(0, 30 * 86_400), st.sampled_from(["a", "b", "c", "d", None])), min_size=1, max_size=7
)


@given(_shared, _shared, _shared, st.randoms(use_true_random=False))
def test_orders_that_several_profiles_share_merge_in_any_order_to_the_same(
    one: list[ProfileEvent], two: list[ProfileEvent], three: list[ProfileEvent], rng: random.Random
) -> None:
    ctx = context(settings=settings(ScoreRules(daily_cap=100)))
    a, b, c = (play(rng.sample(events, len(events)), ctx) for events in (one, two, three))

    def both(x: Score, y: Score) -> Score:
        merged = SIGNAL.merge(x, y, at(31 * D), ctx).state
        assert isinstance(merged, Score)
        assert merged == SIGNAL.merge(y, x, at(31 * D), ctx).state
        return merged

    together = play([*one, *two, *three], ctx)
    for merged in (both(both(a, b), c), both(a, both(b, c))):
        assert merged.orders.latest == together.orders.latest
        assert merged.orders.first_ms == together.orders.first_ms
        for name, tally in together.indicators.items():
            assert merged.indicators[name].log == pytest.approx(tally.log, abs=1e-9)
            assert merged.indicators[name].n == tally.n


def test_the_ids_of_the_latest_orders_are_kept_and_all_count() -> None:
    log = [order(n * 3600, f"o{n}") for n in range(50)]
    ctx = context(settings=settings(ScoreRules(daily_cap=100)))
    state = play(random.Random(3).sample(log, 50), ctx)
    assert list(state.orders.latest) == [f"o{n}" for n in range(18, 50)]
    assert (state.orders.first_ms, state.indicators["repeat_order"].n) == (at(0), 49)
    direct = 20 * exp2(-50 / 24 / 7) + 30 * fsum(exp2(-(50 - n) / 24 / 7) for n in range(1, 50))
    assert e_of(state, 50 * 3600) == pytest.approx(direct, rel=1e-9)
    both = SIGNAL.merge(state, state, at(3 * D), ctx).state
    assert both.orders.latest == state.orders.latest, "what both have is one"
    assert both.indicators["repeat_order"].n == 49 + 18, "but for those that are only counted"
    assert len(msgspec.json.encode(both.orders)) < 32 * 22 + 100


def test_the_earlier_report_of_an_order_says_when_it_was() -> None:
    log = [order(0, "o1"), order(5 * D, "o2"), order(2 * D, "o2"), order(-D, "o1")]
    direct = 20 * exp2(-11 / 7) + 30 * exp2(-8 / 7)
    for some in permutations(log):
        assert e_of(play(list(some)), 10 * D) == pytest.approx(direct, rel=1e-9)


def test_orders_of_a_state_of_version_1_are_known_and_counted() -> None:
    old = {
        "indicators": {
            "first_order": [core.position(at(0), 7), 7.0, 1, 20000, 1],
            "repeat_order": [core.log_add(core.position(at(D), 7), core.position(at(2 * D), 7)), 7.0, 2, 20002, 1],
        },
        "last_ms": at(2 * D),
        "orders": ["o1", "o3"],
    }
    stored = Stored(SIGNAL)
    state = stored.decode(json.dumps(old), "demo:p1")
    assert state == stored.decode(stored.encode(state).decode(), "demo:p1")
    assert play([order(9 * D, "o3")], state=state) == state
    more = play([order(3 * D, "o4")], state=state)
    direct = 20 * exp2(-3 / 7) + 30 * (exp2(-2 / 7) + exp2(-1 / 7) + 1)
    assert e_of(more, 3 * D) == pytest.approx(direct, rel=1e-9)
    both = SIGNAL.merge(more, play([order(1, "o1"), order(3 * D + 5, "o4")]), at(4 * D), context()).state
    assert e_of(both, 3 * D) == pytest.approx(direct, rel=1e-9)


def test_an_order_keeps_its_time_under_another_half_life() -> None:
    slower = context(settings=settings(ScoreRules(half_life_d=30)))
    state = play([order(0, "o1"), order(7 * D, None)])
    revised = SIGNAL.revise(state, at(7 * D), slower).state
    assert e_of(revised, 7 * D) == pytest.approx(20 * exp2(-7 / 30) + 30)
    late = play([order(-3 * D, "o0")], slower, revised)
    assert e_of(late, 7 * D) == pytest.approx(20 * exp2(-10 / 30) + 30 * exp2(-7 / 30) + 30)


def test_orders_beyond_the_cap_are_told_each_once_and_count_for_nothing_else() -> None:
    ctx = context(settings=settings(ScoreRules(daily_cap=2)))
    full = play([order(n, f"o{n}") for n in range(3)], ctx)
    over = SIGNAL.fold(full, order(5, "x"), ctx)
    assert (over.sums, over.sums_back, over.engaged, over.triggers) == ((), (), False, ())
    assert over.state == replace(over.state, marks=full.marks, last_ms=full.last_ms, stage=full.stage)
    assert SIGNAL.fold(over.state, order(6, "x"), ctx).state == over.state, "it was told"
    more = play([order(7, None), order(8, "y")], ctx, over.state)
    said = SIGNAL.explain(more, at(9), ctx)
    assert said["indicators"]["repeat_order"]["events"] == 5
    assert said["raw"] == 20 + 5 * 30
    assert said["score"] == pytest.approx(20 + 2 * 30, rel=1e-3)
    tomorrow = play([order(D, "z")], ctx, more)
    assert (tomorrow.indicators["repeat_order"].n, tomorrow.indicators["repeat_order"].today) == (6, 1)
    assert SIGNAL.revise(more, at(9), ctx).state.indicators["repeat_order"].n == 5

    other = play([order(4, "x"), order(4, "w")], ctx)
    both = SIGNAL.merge(more, other, at(10), ctx).state
    assert both == SIGNAL.merge(other, more, at(10), ctx).state
    assert both.indicators["repeat_order"].n == 6, "o1, o2, x, w, y and the one without an id"
    assert (both.orders.beyond, both.orders.over) == (2, ("y",))
