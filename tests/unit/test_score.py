"""The engagement score: its vectors, its order-free sums against the direct one, and the signal that keeps them."""

from __future__ import annotations

import json
import random
from itertools import permutations
from math import exp2, fsum, inf, log2
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.core import score as core
from stream.core.score import LANDMARK_MS, Tally
from stream.explain import Asked, explain
from stream.signals.base import Context, Result
from stream.signals.score import Score, ScoreSignal
from stream.stored import Stored
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract import scoring
from tracker.contract.durations import DAY_MS
from tracker.contract.events import MESSAGE_ACTIONS, MESSAGE_CLICKS, ORDER_COMPLETED, ProfileEvent
from tracker.contract.scoring import WEIGHTS, LeadRules, ScoreRules
from tracker.contract.settings import Settings, SettingsError, load
from tracker.contract.sites import Site

D = 86_400.0
SIGNAL = ScoreSignal()


def settings(score: ScoreRules | None = None, lead: LeadRules | None = None) -> Settings:
    site = Site(write_key="w", secret_key="s", score=score or ScoreRules(), lead=lead or LeadRules())
    return Settings(sites={"demo": site})


def page(at_s: float, **more: Any) -> ProfileEvent:
    return replace(event("page", at_s, **more), type="page", event=None)


def order(at_s: float, id: str | None) -> ProfileEvent:
    return event(ORDER_COMPLETED, at_s, {"order_id": id} if id else {}, id=f"{id}@{at_s}")


def play(events: list[ProfileEvent], ctx: Context | None = None, state: Score | None = None) -> Score:
    ctx = ctx or context()
    for e in events:
        state = SIGNAL.fold(state, e, ctx).state or state
    assert state is not None
    return state


def at(s: float) -> int:
    return T0_MS + round(1000 * s)


def e_of(state: Score, at_s: float, weights: dict[str, float] = WEIGHTS) -> float:
    return core.score(state.indicators, weights, at(at_s))


# -- the sum ---------------------------------------------------------------------------------------------------------

VECTOR = ((0, 1), (7, 1), (14, 10), (13, 3))


def test_the_log_after_each_event_is_the_vectors_and_so_is_the_score() -> None:
    total, logs = -inf, []
    for days, weight in VECTOR:
        total = core.log_add(total, log2(weight) + core.position(LANDMARK_MS + days * DAY_MS, 7))
        logs.append(total)
    assert logs == pytest.approx([0.0, 1.584962500721156, 5.426264754702097, 5.751374915002869], abs=1e-9)
    at_14 = Tally(total, 7, 4, 0, 0)
    assert core.value(at_14, LANDMARK_MS + 14 * DAY_MS) == pytest.approx(13.46717099279172, abs=1e-9)
    assert core.value(at_14, LANDMARK_MS + 14 * DAY_MS) == pytest.approx(0.25 + 0.5 + 10 + 3 * 2 ** (-1 / 7), rel=1e-12)


def test_any_order_of_the_vector_ends_in_the_same_log() -> None:
    for some in permutations(VECTOR):
        total = -inf
        for days, weight in some:
            total = core.log_add(total, log2(weight) + core.position(LANDMARK_MS + days * DAY_MS, 7))
        assert total == pytest.approx(5.751374915002869, abs=1e-12)


def test_ten_years_of_events_are_the_direct_sum_in_whatever_order() -> None:
    rng = random.Random(7)
    times = [LANDMARK_MS + round(rng.random() * 3650 * DAY_MS) for _ in range(5000)]
    by_arrival = by_time = -inf
    for t in times:
        by_arrival = core.log_add(by_arrival, core.position(t, 7))
    for t in sorted(times):
        by_time = core.log_add(by_time, core.position(t, 7))
    assert by_arrival == pytest.approx(by_time, abs=1e-9)
    now = LANDMARK_MS + 3650 * DAY_MS
    direct = fsum(2 ** ((t - now) / (7 * DAY_MS)) for t in times)
    assert core.value(Tally(by_arrival, 7, 5000, 0, 0), now) == pytest.approx(direct, rel=1e-9)


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_default_weights_are_in_the_order_that_the_sources_want() -> None:
    social = max(WEIGHTS[name] for name in ("social_like", "social_comment", "social_share"))
    assert WEIGHTS["repeat_order"] > WEIGHTS["first_order"] > social
    assert WEIGHTS["referral_converted"] > WEIGHTS["referral_sent"] > social
    assert WEIGHTS["survey"] >= max(WEIGHTS["message_click"], WEIGHTS["promotion_click"])


def test_a_score_is_weights_times_counts() -> None:
    events = [page(i) for i in range(5)] + [order(5, "o1"), order(6, "o2")] + [event("Referral Converted", 7)]
    weights = {"page": 1.0, "first_order": 10.0, "repeat_order": 10.0, "referral_converted": 15.0}
    ctx = context(settings=settings(ScoreRules(weights=weights, half_life_d=3650)))
    state = play(events, ctx)
    assert e_of(state, 7, weights) == pytest.approx(5 * 1 + 2 * 10 + 1 * 15, rel=1e-6)
    assert {name: t.n for name, t in state.indicators.items()} == {
        "page": 5, "first_order": 1, "repeat_order": 1, "referral_converted": 1,
    }  # fmt: skip


@pytest.mark.parametrize("indicator", [i for i in scoring.INDICATORS if i.events], ids=lambda i: i.name)
def test_each_event_of_the_table_counts_for_its_indicator(indicator: scoring.Indicator) -> None:
    for name in indicator.events:
        assert e_of(play([event(name, 0)]), 0) == pytest.approx(indicator.weight)
        assert e_of(play([event(name, 0)]), 7 * D) == pytest.approx(indicator.weight / 2)


@pytest.mark.parametrize("name", [n for n, (_, action) in MESSAGE_ACTIONS.items() if action == "unsubscribed"])
def test_whoever_unsubscribes_on_any_channel_loses_points(name: str) -> None:
    state = play([page(0), event(name, 0)])
    assert e_of(state, 0) == pytest.approx(1 - 15)


def test_bots_and_machines_count_for_nothing_and_people_do() -> None:
    ctx = context()
    assert SIGNAL.fold(None, replace(page(0), bot="Googlebot"), ctx).state is None
    for said in ({"machine_open": True}, {"sg_machine_open": True}):
        assert SIGNAL.fold(None, event("Email Opened", 0, said), ctx) == Result(state=None)
    other: list[Any] = [{}, {"machine_open": False}, {"sg_machine_open": "no"}, ["machine_open"]]
    for by_person in other:
        assert e_of(play([event("Email Opened", 0, by_person)]), 0) == pytest.approx(1)


def counting(state: Score, at_s: float) -> float:
    return core.value(state.indicators["page"], at(at_s))


def test_at_most_twenty_of_a_kind_count_a_local_day() -> None:
    midnight = 86_400 - (T0_MS // 1000 + 7 * 3600) % 86_400
    before, after = [page(midnight - 60 + i / 10) for i in range(25)], [page(midnight + i / 10) for i in range(25)]
    state = play([*before, event("Product Viewed", midnight - 50), *after])
    assert counting(state, midnight) == pytest.approx(40, rel=1e-3)
    assert (state.indicators["page"].n, state.indicators["product_view"].n) == (50, 1)
    three = context(settings=settings(ScoreRules(daily_cap=3)))
    assert counting(play(before, three), midnight) == pytest.approx(3, rel=1e-3)
    late = play([page(midnight - 30)], state=state)
    assert counting(late, midnight) == pytest.approx(41, rel=1e-3)
    assert late.indicators["page"].today == 20
    more = play([page(midnight + 30)], state=late)
    assert more.indicators["page"] == replace(late.indicators["page"], n=52)


# -- orders ----------------------------------------------------------------------------------------------------------


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


# -- order and merges ------------------------------------------------------------------------------------------------

_names = [name for name in scoring.OF_EVENT if name != ORDER_COMPLETED]
_visits = st.lists(
    st.builds(
        lambda i, s: page(s, id=f"{i}{s}") if i < 0 else event(_names[i], s, id=f"{i}{s}"),
        st.integers(-1, len(_names) - 1),
        st.integers(-30 * 86_400, 30 * 86_400),
    )
    | st.builds(lambda s: order(s, f"o{s}"), st.integers(-30 * 86_400, 30 * 86_400)),
    min_size=1,
    max_size=18,
)
MIXED = settings(ScoreRules(half_lives_d={"first_order": 30, "repeat_order": 30, "page": 1}))


@given(events=_visits, seed=st.randoms(use_true_random=False), mixed=st.booleans())
def test_any_order_of_arrival_gives_the_direct_sum(
    events: list[ProfileEvent], seed: random.Random, mixed: bool
) -> None:
    ctx = context(settings=MIXED) if mixed else context()
    unique = list({e.message_id: e for e in events}.values())
    shuffled = unique[:]
    seed.shuffle(shuffled)
    one, other = play(unique, ctx), play(shuffled, ctx)
    assert one.indicators.keys() == other.indicators.keys()
    for name, tally in one.indicators.items():
        assert other.indicators[name].log == pytest.approx(tally.log, abs=1e-9)
    now_s = 31 * D
    rules, _ = SIGNAL.rules(ctx.settings, "demo")
    direct, orders = 0.0, sorted(e.timestamp_ms for e in unique if e.event == ORDER_COMPLETED)
    for e in unique:
        name = scoring.OF_EVENT.get(e.event or "", "page")
        if e.event == ORDER_COMPLETED:
            name = "first_order" if e.timestamp_ms == orders[0] else "repeat_order"
        half_life_ms = rules.half_lives_d[name] * DAY_MS
        direct += WEIGHTS[name] * 2 ** (-(at(now_s) - e.timestamp_ms) / half_life_ms)
    assert e_of(one, now_s) == pytest.approx(direct, rel=1e-9, abs=1e-9)
    rank = core.rank(one.indicators, rules, one.last_ms)
    positive = fsum(x for x in core.weighted(one.indicators, WEIGHTS, at(now_s)).values() if x > 0)
    if rank is not None and not mixed:
        assert core.of_rank(rank, rules, at(now_s)) == pytest.approx(positive, rel=1e-9)
        assert rank == pytest.approx(core.rank(other.indicators, rules, other.last_ms), abs=1e-9)
    elif rank is not None:
        assert core.of_rank(rank, rules, at(now_s)) >= positive * (1 - 1e-9)


@given(one=_visits, other=_visits, now_s=st.integers(0, 40 * 86_400))
def test_merged_sums_are_the_sums_of_both(one: list[ProfileEvent], other: list[ProfileEvent], now_s: int) -> None:
    others = [replace(e, message_id=f"x{e.message_id}") for e in other if e.event != ORDER_COMPLETED]
    if not others:
        return
    a, b = play(one), play(others)
    both = SIGNAL.merge(a, b, T0_MS, context()).state
    assert both.indicators == SIGNAL.merge(b, a, T0_MS, context()).state.indicators
    together = play([*one, *others])
    for name, tally in together.indicators.items():
        assert both.indicators[name].log == pytest.approx(tally.log, abs=1e-9)
    assert e_of(both, now_s) == pytest.approx(e_of(a, now_s) + e_of(b, now_s), rel=1e-9, abs=1e-9)


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


def test_what_an_own_indicator_adds_up_of_orders_counts_each_once() -> None:
    spent = scoring.OwnIndicator("spent", ORDER_COMPLETED, "revenue", 0.01)
    ctx = context(settings=settings(ScoreRules(indicators=(spent,))))
    paid = [event(ORDER_COMPLETED, n, {"order_id": id, "revenue": 500}) for n, id in enumerate(("o1", "o1", "o2"))]
    assert play(paid, ctx).indicators["spent"].n == 1000


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


def test_a_state_says_in_json_what_it_holds() -> None:
    stored = msgspec.json.decode(msgspec.json.encode(play([page(0), page(60)])))
    assert stored["last_ms"] == at(60)
    assert stored["indicators"]["page"][1:] == [7.0, 2, (T0_MS + 7 * 3_600_000) // DAY_MS, 2]
    assert len(msgspec.json.encode(stored)) < 130


# -- other weights, other half-lives ---------------------------------------------------------------------------------


def test_other_weights_need_no_event_again() -> None:
    state = play([page(0), page(0), event("Product Reviewed", 0)])
    assert e_of(state, 0) == pytest.approx(14)
    assert e_of(state, 0, WEIGHTS | {"page": 5.0, "product_review": 1}) == pytest.approx(22)


def test_a_changed_half_life_holds_from_the_next_event_or_revision_on() -> None:
    state = play([page(0), page(0)])
    slower = context(settings=settings(ScoreRules(half_life_d=30)))
    assert e_of(play([page(7 * D)], slower, state), 7 * D) == pytest.approx(1 + 1)
    assert e_of(play([page(7 * D)], slower, state), 37 * D) == pytest.approx(1)
    revised = SIGNAL.revise(state, at(7 * D), slower).state
    assert e_of(revised, 7 * D) == pytest.approx(1)
    assert e_of(revised, 37 * D) == pytest.approx(0.5)
    assert e_of(state, 37 * D) == pytest.approx(2 * 2 ** (-37 / 7))  # one that nobody touched goes on as it was


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("score = { weights = { likes = 3 } }", "site 'shop': score.weights: unknown indicator 'likes'"),
        ("score = { weights = { page = nan } }", "score.weights.page"),
        ("score = { half_lives_d = { page = 0 } }", "half-life of 0.0 days"),
        ("score = { half_lives_d = { page = 1, form = 30, review = 90 } }", "4 different half-lives, 3 at most"),
        ("score = { half_life = 3 }", "half_life"),
        ("score = { indicators = [{ name = 'page', event = 'X' }] }", "score.indicators: 'page': a name"),
        ("score = { indicators = [{ name = 'x', event = '' }] }", "event: a name of 1 to 200 characters"),
        ("score = { indicators = [{ name = 'x', event = 'X', weight = inf }] }", "weight: inf is beyond"),
        ("lead = { mql = 80, sql = 50 }", "lead.sql must be above lead.mql"),
        ("lead = { grades = [10, 20, 30] }", "lead.grades"),
        ("lead = { fit = [{ trait = 'plan', points = 3 }] }", "the rule on trait 'plan' needs one condition"),
        ("lead = { fit = [{ trait = 'plan', points = 3, is = 'a', given = true }] }", "needs one condition"),
    ],
)
def test_settings_that_can_not_be_used_are_told_in_one_line(tmp_path: Any, table: str, told: str) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(f'[sites.shop]\nwrite_key = "write-key-1"\nsecret_key = "secret-key-1"\n{table}\n')
    with pytest.raises(SettingsError) as error:
        load({}, path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_of_equal_contributions_the_name_decides_not_the_last_digit() -> None:
    at_landmark = core.LANDMARK_MS
    tallies = {name: core.Tally(log, 7.0, 1, 0, 1) for name, log in (("form", 3.0), ("review", 3.0 + 1e-14))}
    assert list(core.contributions(tallies, {"form": 1.0, "review": 1.0}, at_landmark)) == ["form", "review"]
    assert list(core.contributions(tallies, {"form": 1.0, "review": 1.001}, at_landmark)) == ["review", "form"]


def test_contributions_sum_to_one_also_with_some_against() -> None:
    state = play([page(0), event("Product Reviewed", 0), event("Ticket Opened", 0)])
    parts = core.contributions(state.indicators, WEIGHTS, at(D))
    assert sum(parts.values()) == pytest.approx(1)
    assert list(parts) == ["review", "ticket", "page"]
    assert parts["ticket"] == pytest.approx(-2 / 11)
    assert core.contributions({}, WEIGHTS, at(0)) == {}


def test_the_display_is_50_at_the_median_and_stays_between_0_and_100() -> None:
    assert core.display(12, 12) == pytest.approx(50)
    assert core.display(24, 12) == pytest.approx(75)
    assert core.display(-5, 12) == 0 == core.display(0, 12)
    assert 99 < core.display(1e9, 12) <= 100


MIDNIGHT_S = -((T0_MS // 1000 + 7 * 3600) % 86_400)
"""A local one, before T0."""


def test_the_change_of_seven_days_is_from_seven_days_ago() -> None:
    """Not from the midnight before: two forms on that day, of which one was earlier than the hour of now."""
    state = play([event("Form Submitted", MIDNIGHT_S + hour * 3600) for hour in (2, 9, 7 * 24 + 3)])
    for hour in (8, 8.99, 10, 12):
        now_s = MIDNIGHT_S + 7 * D + hour * 3600
        said = SIGNAL.explain(state, at(now_s), context())
        before = fsum(10 * 2 ** (-(hour - h) / 168) for h in (2, 9) if h <= hour)
        assert said["change_7d"] == pytest.approx(said["score"] - before, abs=1e-3), hour


def test_what_the_score_was_is_known_for_eight_days() -> None:
    times = [MIDNIGHT_S + d * D for d in (0.2, 1.5, 3.1, 3.9, 8.0, 8.5, 9.7)]
    for last in range(1, len(times) + 1):
        state = play([page(s) for s in times[:last]])
        for days in range(int((times[last - 1] - MIDNIGHT_S) // D) + 2):
            then_s = MIDNIGHT_S + days * D + 1800
            if times[last - 1] - then_s > 8 * D:
                continue
            was = fsum(2 ** (-(then_s - s) / (7 * D)) for s in times[:last] if s < then_s)
            found = core.earlier(state.indicators, state.marks, WEIGHTS, at(then_s))
            assert found == pytest.approx(was, rel=1e-5), (last, days)
    assert [len(play([page(s) for s in times[:n]]).marks) for n in (1, 7)] == [1, 5]
    hourly = play([page(MIDNIGHT_S + 600 * n) for n in range(6 * 24 * 20)])
    assert len(hourly.marks) <= 8 * 24 + 1


def test_marks_of_merged_profiles_add_up() -> None:
    one, other = play([page(d * D) for d in (0, 2, 5)]), play([event("Form Submitted", d * D) for d in (1, 5, 6)])
    both = SIGNAL.merge(one, other, at(7 * D), context()).state
    for days in range(8):
        then = at(MIDNIGHT_S + days * D)
        a, b, ab = (core.earlier(s.indicators, s.marks, WEIGHTS, then) for s in (one, other, both))
        assert ab == pytest.approx(a + b, rel=1e-5)
    assert both.marks == SIGNAL.merge(other, one, at(7 * D), context()).state.marks


@given(events=_visits, least=st.floats(0.01, 60), mixed=st.booleans())
def test_a_score_falls_below_a_threshold_when_it_was_said(
    events: list[ProfileEvent], least: float, mixed: bool
) -> None:
    state = play(events, context(settings=MIXED) if mixed else context())
    due = core.falls_below(state.indicators, WEIGHTS, least, state.last_ms)
    assert due is not None
    assert core.score(state.indicators, WEIGHTS, due) < least * (1 + 1e-9)
    if due > state.last_ms:
        assert core.score(state.indicators, WEIGHTS, due - 1) >= least * (1 - 1e-9)


def test_the_moment_of_falling_below_is_the_formula() -> None:
    state = play([event("Referral Converted", 0)])
    log = state.indicators["referral_converted"].log + log2(30)
    formula = LANDMARK_MS + 7 * DAY_MS * (log - log2(10))
    assert core.falls_below(state.indicators, WEIGHTS, 10, at(0)) == pytest.approx(formula, abs=2)
    assert core.falls_below(state.indicators, WEIGHTS, 0, at(0)) is None
    assert exp2(log - core.position(round(formula), 7)) == pytest.approx(10)


def test_a_click_on_any_message_counts() -> None:
    assert {scoring.OF_EVENT[name] for name in MESSAGE_CLICKS} == {"message_click"}


def test_a_raw_score_is_weights_times_counts_also_beyond_the_cap() -> None:
    """Domain: A101: w{view 1, buy 10, refer 15}, n{5, 2, 1} -> 40; A108: counts have no cap."""
    weights = {"page": 1.0, "first_order": 10.0, "repeat_order": 10.0, "referral_sent": 15.0}
    ctx = context(settings=settings(ScoreRules(weights=weights)))
    state = play([*(page(n) for n in range(5)), order(6, "a"), order(7, "b"), event("Invite Sent", 8)], ctx)
    assert SIGNAL.explain(state, at(9), ctx)["raw"] == 40
    assert SIGNAL.explain(state, at(9 + 700 * D), ctx)["raw"] == 40
    liked = play([event("Social Liked", n) for n in range(50)])
    said = SIGNAL.explain(liked, at(50), context())
    assert (said["indicators"]["social_like"]["events"], said["raw"]) == (50, 50)
    assert said["score"] == pytest.approx(20, abs=0.01)


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


def test_an_event_beyond_the_cap_adds_nothing_to_the_sums_and_is_no_engagement() -> None:
    state = play([event("Social Liked", n) for n in range(20)])
    result = SIGNAL.fold(state, event("Social Liked", 21), context())
    assert (result.sums, result.engaged, result.state.last_ms) == ((), False, state.last_ms)
    assert result.state.indicators["social_like"] == replace(state.indicators["social_like"], n=21)


@pytest.mark.parametrize(
    "name",
    ["Brand Mentioned", "Live Chat Conversation Started", "Call Logged", "Content Posted", "Content Replied"],
)
def test_events_without_a_weight_are_counted_and_get_one_without_an_event_again(name: str) -> None:
    state = play([event(name, n) for n in range(3)])
    indicator = scoring.OF_EVENT[name]
    assert SIGNAL.explain(state, at(3), context())["score"] == 0
    weighted = context(settings=settings(ScoreRules(weights={indicator: 4})))
    said = SIGNAL.explain(state, at(3), weighted)
    assert (said["raw"], said["indicators"][indicator]["events"]) == (12, 3)
    assert said["score"] == pytest.approx(12, rel=1e-4)


def test_amounts_add_up_where_they_have_a_weight() -> None:
    """Active minutes (A107), marks of surveys (A112)."""
    rules = settings(ScoreRules(weights={"active_minutes": 2, "nps": 0.5, "csat": 1, "ces": 1, "survey": 0, "page": 0}))
    ctx = context(settings=rules)
    beats = [event("Page Engaged", 0, {"engaged_ms": ms}, id=f"b{ms}") for ms in (0, 15_000, 15_001, 170_000)]
    said = [("NPS", 10, None), ("nps", 6.5, None), ("csat", 4, None), ("csat", 7, 7), ("ces", 7, None), ("x", 3, None)]
    answers = [
        event("Survey Response Received", 0, {"type": t, "score": s, **({"scale": of} if of else {})}, id=f"{t}{s}")
        for t, s, of in said
    ]
    state = play([*beats, *answers, page(0)], ctx)
    indicators = SIGNAL.explain(state, at(0), ctx)["indicators"]
    found = {name: indicators[name]["events"] for name in ("active_minutes", "nps", "csat", "ces", "survey")}
    assert found == {"active_minutes": pytest.approx(1.0, rel=1e-4), "nps": 10, "csat": 9, "ces": 7, "survey": 6}
    assert e_of(state, 0, core.rules_of(rules.sites["demo"].score).weights) == pytest.approx(2 + 5 + 9 + 7, rel=1e-4)
    assert play([page(0), *beats]).indicators.keys() == {"page"}
    assert "Page Engaged" in (SIGNAL.asks(rules.sites["demo"]) or ())
    assert "Page Engaged" not in (SIGNAL.asks(None) or ())


def test_a_site_has_indicators_of_its_own() -> None:
    watched = scoring.OwnIndicator("watched_minutes", "Video Watched", "minutes", 0.2)
    visited = scoring.OwnIndicator("store_visit", "Store Visit", weight=7)
    bought = scoring.OwnIndicator("spent", ORDER_COMPLETED, "revenue", 0.01)
    site = settings(ScoreRules(indicators=(watched, visited, bought), weights={"store_visit": 8}))
    ctx = context(settings=site)
    videos = [event("Video Watched", 0, {"minutes": m}, id=f"v{m}") for m in (30, "12.5", 0, -3, None, "x", True)]
    visits = [event("Store Visit", n) for n in range(25)]
    state = play([*videos, *visits, event(ORDER_COMPLETED, 0, {"order_id": "o", "revenue": 500})], ctx)
    said = SIGNAL.explain(state, at(0), ctx)["indicators"]
    assert (said["watched_minutes"]["events"], said["store_visit"]["events"], said["spent"]["events"]) == (
        42.5,
        25,
        500,
    )
    assert e_of(state, 0, core.rules_of(site.sites["demo"].score).weights) == pytest.approx(
        42.5 * 0.2 + 20 * 8 + 20 + 5, rel=1e-3
    )
    assert state == msgspec.json.decode(msgspec.json.encode(state), type=Score)
    one, other = play(videos, ctx), play(visits, ctx)
    both = SIGNAL.merge(one, other, at(30), ctx).state
    assert both == SIGNAL.merge(other, one, at(30), ctx).state
    result = SIGNAL.fold(None, visits[0], ctx)
    assert (result.engaged, [name for name, _, _ in result.sums]) == (True, ["store_visit"])
    assert SIGNAL.rank(play(visits, ctx), "demo", site) == pytest.approx(
        log2(8) + play(visits, ctx).indicators["store_visit"].log
    )


SESSIONS = settings(ScoreRules(weights={"session": 5, "page": 0}))


def test_a_session_counts_when_it_began_in_whatever_order_its_events_come() -> None:
    """Sessions at 0 (to 30 min: exactly 30 minutes are none apart), and at 61 min; then an event that joins them."""
    ctx, log = context(settings=SESSIONS), [page(0), page(1800), page(3660), page(2 * D)]
    for order_ in permutations(log):
        state = play(list(order_), ctx)
        assert state.indicators["session"].n == 3
        direct = fsum(exp2(-(2 * D - s) / (7 * D)) for s in (0, 3660, 2 * D))
        assert e_of(state, 2 * D, {"session": 1}) == pytest.approx(direct, rel=1e-12)
    for order_ in permutations([*log, page(2700)]):
        state = play(list(order_), ctx)
        assert state.indicators["session"].n == 2
        assert e_of(state, 2 * D, {"session": 1}) == pytest.approx(1 + exp2(-2 / 7), rel=1e-12)
    assert state == msgspec.json.decode(msgspec.json.encode(state), type=Score)


def test_sessions_of_two_profiles_that_are_one_person_are_joined() -> None:
    ctx = context(settings=SESSIONS)
    one, other = play([page(0), page(2 * D)], ctx), play([page(1500), page(D)], ctx)
    both = SIGNAL.merge(one, other, at(3 * D), ctx).state
    assert both is not None
    assert both == SIGNAL.merge(other, one, at(3 * D), ctx).state
    assert both.indicators["session"].n == 3
    wanted = fsum(exp2(-d / 7) for d in (3, 2, 1))
    assert e_of(both, 3 * D, {"session": 1}) == pytest.approx(wanted, rel=1e-12)


def site_total(results: list[Result], indicator: str, at_s: float) -> float:
    """What the site's sums of it are worth, of one's results or of several persons'."""
    added, back = [p for r in results for p in r.sums], [p for r in results for p in r.sums_back]
    return core.site_total(added, back, {indicator: 1.0}, at(at_s))


_stay = st.lists(
    st.tuples(st.integers(0, 600), st.sampled_from("ppppo")).map(
        lambda drawn: page(60.0 * drawn[0]) if drawn[1] == "p" else order(60.0 * drawn[0], None)
    ),
    min_size=1,
    max_size=25,
)


@given(_stay, _stay, st.randoms(use_true_random=False))
def test_any_order_of_arrival_and_any_merge_give_the_same_site_totals(
    one: list[ProfileEvent], other: list[ProfileEvent], rng: random.Random
) -> None:
    """Ten hours: sessions are few enough to be kept one by one. (What is over a day's cap depends on the order.)"""
    ctx = context(settings=settings(ScoreRules(weights={"session": 5}, daily_cap=100)))

    def results(events: list[ProfileEvent]) -> list[Result]:
        out: list[Result] = []
        for e in events:
            out.append(SIGNAL.fold(out[-1].state if out else None, e, ctx))
        return out

    together = results(sorted([*one, *other], key=lambda e: e.timestamp_ms))
    first, second = (results(rng.sample(events, len(events))) for events in (one, other))
    merged = [*first, *second, SIGNAL.merge(first[-1].state, second[-1].state, at(D), ctx)]
    for name, tally in together[-1].state.indicators.items():
        wanted = core.value(tally, at(D))
        assert site_total(together, name, D) == pytest.approx(wanted, rel=1e-9)
        assert site_total(merged, name, D) == pytest.approx(wanted, rel=1e-9)


def test_sessions_beyond_those_that_are_kept_stay_counted() -> None:
    ctx = context(settings=SESSIONS)
    starts = [n * 3600.0 for n in range(40)]
    state = play([page(s) for s in starts], ctx)
    assert state.sessions is not None
    assert len(state.sessions.latest) == 12
    assert state.indicators["session"].n == 40
    wanted = fsum(exp2(-(40 * 3600 - s) / (7 * D)) for s in starts)
    assert e_of(state, 40 * 3600, {"session": 1}) == pytest.approx(wanted, rel=1e-9)


def test_sessions_cost_and_count_nothing_without_a_weight() -> None:
    assert SIGNAL.asks(SESSIONS.sites["demo"]) is None
    assert SIGNAL.asks(settings().sites["demo"]) is not None
    state = play([page(0)])
    assert state.sessions is None
    assert state.indicators.keys() == {"page"}
    results = [SIGNAL.fold(None, e, context(settings=SESSIONS)) for e in (page(0), event("Element Clicked", 0))]
    assert [[name for name, _, _ in r.sums] for r in results] == [["page", "session"], ["session"]]
    assert all(r.engaged for r in results)


def test_a_score_may_have_a_floor() -> None:
    log = [page(0), event("Unsubscribed", 0)]
    for floor, score in ((False, -14), (True, 0)):
        ctx = context(settings=settings(ScoreRules(floor=floor)))
        said = SIGNAL.explain(play(log, ctx), at(0), ctx)
        assert (said["score"], said["points"], said["raw"]) == (pytest.approx(score), pytest.approx(score), -14)


def test_the_display_is_by_the_site_s_median_where_it_is_known() -> None:
    state = play([event("Form Submitted", 0)])
    assert (SIGNAL.explain(state, at(0), context())["display"], core.E50) == (pytest.approx(100 * (1 - 2**-0.5)), 20)
    known = SIGNAL.explain(state, at(0), replace(context(), e50=10.0))
    assert (known["display"], known["e50"]) == (pytest.approx(50), 10)
    said = explain(
        Asked(
            settings=settings(),
            site="demo",
            profile_id="p",
            about={},
            fields={"score": msgspec.json.encode(state).decode()},
        ),
        at(0),
        10.0,
    )
    assert said["score"]["state"]["display"] == pytest.approx(50)


def test_a_state_is_explained_by_what_it_is_made_of() -> None:
    state = play([page(0), page(0), event("Form Submitted", 0)])
    said = SIGNAL.explain(state, at(7 * D), context())
    assert (said["score"], said["points"], said["grade"]) == (pytest.approx(6), pytest.approx(6), "D")
    assert said["display"] == pytest.approx(core.display(6, core.E50))
    assert said["change_7d"] == pytest.approx(6 - 12)
    earlier = SIGNAL.explain(state, at(7 * D - 60), context())
    assert earlier["change_7d"] == earlier["score"], "seven days ago it was all to come"
    assert (said["stage"], said["entered"]) == ("lead", {"lead": 1})
    assert said["indicators"]["page"] == {
        "events": 2, "value": pytest.approx(1), "weight": 1, "half_life_d": 7, "part": pytest.approx(1 / 6),
    }  # fmt: skip
