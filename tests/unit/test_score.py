"""The engagement score: its vectors, its order-free sums against the direct one, and the signal that keeps them."""

from __future__ import annotations

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
from stream.signals.base import Result
from stream.signals.score import Score
from tests.unit.score_play import SIGNAL, D, at, e_of, order, page, play, settings
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract import scoring
from tracker.contract.durations import DAY_MS
from tracker.contract.events import MESSAGE_ACTIONS, MESSAGE_CLICKS, ORDER_COMPLETED, ProfileEvent
from tracker.contract.scoring import WEIGHTS, ScoreRules

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


def test_a_click_on_any_message_counts() -> None:
    assert {scoring.OF_EVENT[name] for name in MESSAGE_CLICKS} == {"message_click"}


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


def test_a_state_says_in_json_what_it_holds() -> None:
    stored = msgspec.json.decode(msgspec.json.encode(play([page(0), page(60)])))
    assert stored["last_ms"] == at(60)
    assert stored["indicators"]["page"][1:] == [7.0, 2, (T0_MS + 7 * 3_600_000) // DAY_MS, 2]
    assert len(msgspec.json.encode(stored)) < 130


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


def test_an_event_beyond_the_cap_adds_nothing_to_the_sums_and_is_no_engagement() -> None:
    state = play([event("Social Liked", n) for n in range(20)])
    result = SIGNAL.fold(state, event("Social Liked", 21), context())
    assert (result.sums, result.engaged, result.state.last_ms) == ((), False, state.last_ms)
    assert result.state.indicators["social_like"] == replace(state.indicators["social_like"], n=21)


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
